"""A real gateway in front of real model servers, and callers for it.

llama.cpp's server runs twice (chat, embeddings), an Ollama-shaped server sits before them, and `doorward serve` before
all three, on loopback, on ports that were free. The paths of the programs come from scripts/test in the environment.
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

REPO = pathlib.Path(__file__).resolve().parents[2]
MODEL_SERVER = REPO / "scripts" / "model-server"
BACKEND_KEY = "backend-secret-canary-5f1c"
TRUST_DOMAIN = "sdk.example"
# Every prompt carries it, nothing that the gateway writes may.
CANARY = "canary-prompt-77e2"
# The literal credential that SDKs send where only the certificate counts.
PLACEHOLDER = "certificate"
# One token of the tiny model is a whole tool call.
CALL_A_TOOL = {"3": 100}
# More than any test waits for: at some 3,000 tokens a second the model talks for 20 seconds.
ENDLESS = 60_000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def poll(seconds, what, probe, every=0.02):
    """Calls probe until it returns something true, and returns that; fails after `seconds`."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        result = probe()
        if result:
            return result
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        pause.wait(every)


@dataclasses.dataclass
class Certificate:
    chain: pathlib.Path
    key: pathlib.Path


@dataclasses.dataclass
class Key:
    id: str
    secret: str


class Silent:
    """A backend that takes requests and never answers, to see when one is given up: llama.cpp does not look at its
    caller until it has something to send."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked, self.left = 0, 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.listen, args=(connection,), daemon=True).start()

    def listen(self, connection):
        with connection:
            if connection.recv(65536):
                self.asked += 1
                try:
                    while connection.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
                self.left += 1


class World:
    def __init__(self, directory):
        self.directory = directory
        self.processes = []
        self.secrets = [BACKEND_KEY]
        self.request_ids = []
        self.chat_port, self.embeddings_port, self.ollama_port = free_port(), free_port(), free_port()
        self.port, self.admin_port = free_port(), free_port()
        self.silent = Silent()
        self.url = f"https://localhost:{self.port}"
        self.config = directory / "doorward.toml"
        self.records = directory / "state" / "records.jsonl"
        self.ca = directory / "certs" / "ca.crt"

    # Processes

    def start(self, name, *command, **environment):
        out = open(self.directory / f"{name}.log", "wb")
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env={**os.environ, **environment},
        )
        self.processes.append((name, process))
        return process

    def stop(self):
        for _, process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(35)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)

    def alive(self):
        for name, process in self.processes:
            if process.poll() not in (None, 0):
                log = (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"{name} ended with {process.returncode}:\n{log}")
        return True

    def get(self, url, headers={}):
        """The status and text of a plain GET; status 0 when nobody listens."""
        self.alive()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def start_model_servers(self):
        python, model = os.environ["MODEL_PYTHON"], os.environ["MODEL_FILE"]
        serve = [python, MODEL_SERVER / "llama-serve.py", model, "--api-key", BACKEND_KEY, "--alias", "tiny-llama"]
        self.start("chat", *serve, "--port", self.chat_port, "--slots", 8, "--ctx", 8 * 65536, "--predict", 256)
        self.start(
            "embeddings", *serve, "--port", self.embeddings_port, "--embeddings", "--slots", 2, "--ctx", 4096
        )
        chat, embeddings = (f"http://127.0.0.1:{port}" for port in (self.chat_port, self.embeddings_port))
        self.start(
            "ollama", python, MODEL_SERVER / "ollama-shim.py", self.ollama_port, chat, embeddings, BACKEND_KEY,
            "shim-llama",
        )  # fmt: skip
        for url in (f"{chat}/health", f"{embeddings}/health", f"http://127.0.0.1:{self.ollama_port}/"):
            poll(30, f"{url} answers", lambda url=url: self.get(url)[0] == 200)

    def start_gateway(self):
        self.config.write_text(self.configuration())
        self.cli("ca", "init", "--trust-domain", TRUST_DOMAIN)
        self.certificate("app-first")  # and ca.crt
        self.cli("check")
        self.start("gateway", os.environ["DOORWARD_BIN"], "serve", "--config", self.config, LLAMA_KEY=BACKEND_KEY)
        poll(30, "the gateway is ready", lambda: self.get(self.admin("/readyz"))[0] == 200)

    def admin(self, path):
        return f"http://127.0.0.1:{self.admin_port}{path}"

    def configuration(self):
        return f"""
state_dir  = "state"
gateway_id = "sdk"

[listen]
address        = "127.0.0.1:{self.port}"
names          = {{ api = ["localhost"], enroll = ["enroll.localhost"], connect = ["connect.localhost"] }}
client_auth    = "optional"
certificate    = "internal"
max_body_bytes = 1_048_576
drain          = "3s"

[admin]
address = "127.0.0.1:{self.admin_port}"

[ca]
trust_domain = "{TRUST_DOMAIN}"

[[identity]]
match = "spiffe://{TRUST_DOMAIN}/client/app-*"
owner = "acme/apps"

[[identity]]
match = "spiffe://{TRUST_DOMAIN}/client/both-*"
owner = "acme/both"

[[grant]]
owner     = "acme"
require   = "either"
networks  = ["127.0.0.0/8"]
endpoints = ["*"]
models    = ["*"]

[[grant]]
owner   = "acme/both"
require = "both"

[[backend]]
name       = "chat"
url        = "http://127.0.0.1:{self.chat_port}"
dialects   = ["openai", "anthropic"]
credential = "${{env:LLAMA_KEY}}"

[[backend]]
name       = "embeddings"
url        = "http://127.0.0.1:{self.embeddings_port}"
dialects   = ["openai"]
credential = "${{env:LLAMA_KEY}}"

[[backend]]
name     = "ollama"
url      = "http://127.0.0.1:{self.ollama_port}"
dialects = ["ollama"]

[[backend]]
name      = "site"
connector = "site-a"
dialects  = ["openai", "anthropic"]

[[backend]]
name     = "gone"
url      = "http://127.0.0.1:{free_port()}"
dialects = ["openai", "anthropic", "ollama"]

[[backend]]
name     = "silent"
url      = "http://127.0.0.1:{self.silent.port}"
dialects = ["openai"]

[[model]]
name    = "tiny"
targets = [
  {{ backend = "chat", model = "tiny-llama" }},
  {{ backend = "embeddings", model = "tiny-llama", endpoints = ["@embeddings"] }},
]

[[model]]
name    = "tiny-ollama"
targets = [{{ backend = "ollama", model = "shim-llama:latest" }}]

[[model]]
name    = "acme/all-dialects"
targets = [
  {{ backend = "chat", model = "tiny-llama" }},
  {{ backend = "embeddings", model = "tiny-llama", endpoints = ["openai.embeddings"] }},
  {{ backend = "ollama", model = "shim-llama" }},
]

[[model]]
name    = "site-llama"
targets = [{{ backend = "site", model = "tiny-llama" }}]

[[model]]
name    = "gone"
targets = [{{ backend = "gone", model = "gone" }}]

[[model]]
name    = "silent"
targets = [{{ backend = "silent", model = "silent" }}]
"""

    # Credentials

    def cli(self, *arguments):
        """Runs a verb of the command line and returns what it printed."""
        command = [os.environ["DOORWARD_BIN"], *arguments]
        if "--config" not in arguments:
            command += ["--config", str(self.config)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, env={**os.environ, "LLAMA_KEY": BACKEND_KEY}
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stderr}"
        return done.stdout

    def key(self, owner, *options):
        """A new key, already in force."""
        made = json.loads(self.cli("key", "create", "--owner", owner, *options, "--output", "json"))
        self.secrets.append(made["key"])
        return Key(made["id"], made["key"])

    def certificate(self, name):
        """A new client certificate: NAME.crt and NAME.key."""
        self.cli("cert", "issue", name, "--out", str(self.ca.parent))
        return Certificate(self.ca.parent / f"{name}.crt", self.ca.parent / f"{name}.key")

    def tls(self, certificate=None):
        """What a careful client checks: strict X.509 rules, the private root only."""
        context = ssl.create_default_context(cafile=self.ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if certificate:
            context.load_cert_chain(certificate.chain, certificate.key)
        return context

    # What is left behind

    def note(self, response):
        """Event hook of HTTP clients: every answer carries a request id."""
        assert response.headers.get("x-request-id"), "an answer without x-request-id"
        self.request_ids.append(response.headers["x-request-id"])

    async def note_async(self, response):
        self.note(response)

    def entries(self):
        """The records of requests; lines with an event tell what was done with certificates."""
        lines = [json.loads(line) for line in self.records.read_text().splitlines()]
        return [line for line in lines if "event" not in line]

    def entry(self, request_id):
        """The one record of a request, which is there within a second of its end."""
        found = poll(
            2, f"a record of {request_id}", lambda: [e for e in self.entries() if e["request_id"] == request_id]
        )
        assert len(found) == 1, found
        return found[0]

    def busy(self):
        """How many requests llama.cpp works on."""
        _, text = self.get(f"http://127.0.0.1:{self.chat_port}/metrics", {"Authorization": f"Bearer {BACKEND_KEY}"})
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("llamacpp:requests_processing"))


@dataclasses.dataclass
class Caller:
    """Someone who knows the gateway by certificate, by key, or by both."""

    world: World
    certificate: Certificate | None
    key: Key | None

    @property
    def credential(self):
        return self.key.secret if self.key else PLACEHOLDER

    def http(self, library, http2=False, asynchronous=False, **options):
        """An HTTP client of `library` (httpx or httpx2) with this caller's certificate."""
        world = self.world
        client = library.AsyncClient if asynchronous else library.Client
        hook = world.note_async if asynchronous else world.note
        return client(
            verify=world.tls(self.certificate),
            http2=http2,
            timeout=30,
            trust_env=False,
            event_hooks={"response": [hook]},
            **options,
        )

    def headers(self):
        return {"Authorization": f"Bearer {self.key.secret}"} if self.key else {}


def chat(model="tiny", **more):
    """The body of a chat."""
    return {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": f"Hello {CANARY}"}], **more}


def local_port(response):
    """Our end of the connection that carried a response: tells a reused connection from a new one."""
    return response.extensions["network_stream"].get_extra_info("client_addr")[1]
