"""The program that is built without the gateway, beside a model server: it joins, connects, and is renewed.

The gateway knows a name and a certificate; where the server is, and its credential, only the connector's config says.
"""

import json
import os
import subprocess

import httpx2
import openai
import pytest

from world import BACKEND_KEY, CANARY, World, poll

MESSAGES = [{"role": "user", "content": f"Hello {CANARY}"}]


def here(*arguments):
    """Runs a verb of the connector build."""
    command = [os.environ["DOORWARD_CONNECTOR_BIN"], *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def site(world: World):
    """Where the connector keeps its identity; it runs."""
    directory = world.directory / "site"
    bundle = world.cli("enroll", "create", "site-a", "--role", "connector").strip()
    world.secrets.append(bundle)
    file = world.directory / "site-bundle"
    file.write_text(bundle)
    here("enroll", "join", file, "--out", directory)
    config = world.directory / "connector.toml"
    config.write_text(
        f"""
state_dir = "site"
[[backend]]
name       = "site"
url        = "http://127.0.0.1:{world.chat_port}"
credential = "${{env:LLAMA_KEY}}"
"""
    )
    command = [os.environ["DOORWARD_CONNECTOR_BIN"], "connect", "--config", config]
    world.start("site", *command, LLAMA_KEY=BACKEND_KEY)
    log = world.directory / "site.log"
    poll(20, "the connector is registered", lambda: world.alive() and "registered" in log.read_text())
    return directory


def test_a_chat_and_a_stream_come_through(site, world, by_both):
    client = openai.OpenAI(
        base_url=f"{world.url}/v1", api_key=by_both.credential, http_client=by_both.http(httpx2)
    )
    whole = client.chat.completions.create(model="site-llama", messages=MESSAGES, max_tokens=8)
    assert whole.choices[0].message.content and whole.usage.completion_tokens == 8
    chunks = list(client.chat.completions.create(model="site-llama", messages=MESSAGES, max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_its_certificate_is_renewed(site):
    serial = json.loads(here("cert", "renew", "--dir", site, "--output", "json"))["serial"]
    assert serial != json.loads(here("cert", "renew", "--dir", site, "--output", "json"))["serial"]
