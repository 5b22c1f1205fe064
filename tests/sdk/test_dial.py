"""`doorward dial`: the official clients as they come out of the box, with nothing but their environment set.

They know of no certificate, no private root and no key. The dial beside them was started with an enrollment bundle,
by the program that is built without the gateway.
"""

import os
import re
import shlex
import subprocess

import anthropic
import httpx
import ollama
import openai
import pytest

from world import CANARY, World, free_port, poll

MESSAGES = [{"role": "user", "content": f"Hello {CANARY}"}]


class Dial:
    """A dial with an identity of its own."""

    def __init__(self, world, name, *options):
        self.world, self.port = world, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = world.directory / f"dial-{name}"
        self.options = ["--listen", f"127.0.0.1:{self.port}", "--state", str(self.state), *options]
        self.bundle = world.cli("enroll", "create", name, "--role", "client").strip()
        world.secrets.append(self.bundle)
        self.process = world.start(
            f"dial-{name}", os.environ["DOORWARD_CONNECTOR_BIN"], "dial", *self.options, DOORWARD_BUNDLE=self.bundle
        )
        poll(10, "dial answers", lambda: world.get(f"{self.url}/")[0] in (200, 401))

    def environment(self):
        """What `--print-env` says, as a shell would read it."""
        command = [os.environ["DOORWARD_CONNECTOR_BIN"], "dial", *self.options, "--print-env"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def dial(world: World):
    return Dial(world, "app-dial")


@pytest.fixture
def tools(dial, monkeypatch):
    """The environment of tools, and nothing else that they might find."""
    for name, value in dial.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return dial


def test_openai(tools):
    client = openai.OpenAI()
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8)
    assert whole.choices[0].message.content and whole.usage.completion_tokens == 8
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "tiny" in {model.id for model in client.models.list()}
    assert len(client.embeddings.create(model="tiny", input="x").data[0].embedding) > 0


def test_anthropic(tools):
    client = anthropic.Anthropic()
    whole = client.messages.create(model="tiny", max_tokens=8, messages=MESSAGES)
    assert whole.content[0].text and whole.usage.output_tokens == 8
    with client.messages.stream(model="tiny", max_tokens=8, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream)


def test_ollama(tools):
    client = ollama.Client()
    assert client.chat("tiny-ollama", MESSAGES, options={"num_predict": 8}).message.content
    lines = list(client.chat("tiny-ollama", MESSAGES, options={"num_predict": 8}, stream=True))
    assert lines[-1].done and "".join(line.message.content for line in lines)
    assert "tiny-ollama" in {model.model for model in client.list().models}


def test_the_certificate_is_what_counts(tools, world: World):
    response = openai.OpenAI().chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=1)
    entry = world.entry(response.headers["x-request-id"])
    assert (entry["identity"], entry["key_id"]) == ("spiffe://sdk.example/client/app-dial", None)


def test_a_stream_that_is_left_ends_at_the_backend(tools, world: World):
    before = world.busy()
    stream = openai.OpenAI().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=60_000, stream=True)
    next(stream)
    assert world.busy() > before
    stream.close()
    poll(5, "the backend stops", lambda: world.busy() == before)


def test_errors_read_as_the_gateways_own(tools):
    with pytest.raises(openai.NotFoundError) as missing:
        openai.OpenAI().chat.completions.create(model="nothing", messages=MESSAGES)
    assert missing.value.code == "model_not_found"


def test_a_wrong_token_is_an_authentication_error(tools, dial):
    with pytest.raises(openai.AuthenticationError, match="--print-env"):
        openai.OpenAI(api_key="sk-wrong").models.list()
    with pytest.raises(anthropic.AuthenticationError, match="--print-env"):
        anthropic.Anthropic(api_key="wrong").messages.create(model="tiny", max_tokens=1, messages=MESSAGES)
    with pytest.raises(ollama.ResponseError) as refused:
        ollama.Client(host=dial.url, headers={"Authorization": "Bearer wrong"}).list()
    assert refused.value.status_code == 401


def test_a_web_page_gets_nothing(tools, dial):
    token = dial.environment()["OPENAI_API_KEY"]
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        assert http.get(f"{dial.url}/v1/models").status_code == 200
        assert http.get(f"{dial.url}/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        assert http.get(f"{dial.url}/v1/models", headers={"Host": "evil.example"}).status_code == 403
        assert http.get(f"{dial.url}/v1/models", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert http.options(f"{dial.url}/v1/models").status_code == 403


def test_curl_over_a_unix_socket(world: World, tmp_path):
    socket = tmp_path / "llm.sock"
    bundle = world.cli("enroll", "create", "app-socket", "--role", "client").strip()
    world.secrets.append(bundle)
    options = ["--listen", f"unix:{socket}", "--state", str(world.directory / "dial-socket"), "--bundle", bundle]
    world.start("dial-socket", os.environ["DOORWARD_CONNECTOR_BIN"], "dial", *options)
    poll(10, "dial listens", socket.exists)
    command = ["curl", "-sS", "--unix-socket", str(socket), "http://localhost/api/version"]
    assert "version" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def test_a_gateway_that_is_away_is_said_in_words(world: World, monkeypatch):
    dial = Dial(world, "app-away")
    origin = dial.state / "gateway.toml"
    dial.process.terminate()
    assert dial.process.wait(15) == 0
    origin.write_text(re.sub(r"addresses = .*", f'addresses = ["127.0.0.1:{free_port()}"]', origin.read_text()))
    again = world.start("dial-away", os.environ["DOORWARD_CONNECTOR_BIN"], "dial", *dial.options)
    poll(10, "dial answers", lambda: world.get(f"{dial.url}/")[0] == 401)
    for name, value in dial.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(openai.InternalServerError, match="cannot be reached.*refused"):
        openai.OpenAI(max_retries=0).models.list()
    with pytest.raises(anthropic.InternalServerError, match="cannot be reached"):
        anthropic.Anthropic(max_retries=0).messages.create(model="tiny", max_tokens=1, messages=MESSAGES)
    with pytest.raises(ollama.ResponseError, match="cannot be reached"):
        ollama.Client().list()
    again.terminate()
    assert again.wait(15) == 0
