"""Webhooks: the example receiver as a process of its own, and the Standard Webhooks libraries of PyPI and npm."""

import base64
import datetime
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
import regopy
import standardwebhooks
import yaml

from conftest import in_force
from world import BACKEND_KEY, REPO, Caller, World, chat, free_port, poll

RECEIVER = REPO / "scripts" / "examples" / "webhook-receiver"
POLICY = RECEIVER / "opa.rego"
DOCUMENT = (REPO / "docs" / "webhook.md").read_text()
RULES = {
    "rules": [
        {
            "match": {"caller.owner": "acme/hooked/stranger"},
            "decision": "deny", "status": 404, "public_message": "Ask the help desk.", "reason": "suspended",
        },
        {"match": {"caller.owner": ["acme/hooked", "acme/hooked/*", "acme/open/*"]}, "decision": "allow", "ttl_s": 0},
        {"match": {"caller.owner": "acme/stale/*"}, "decision": "allow", "ttl_s": 1},
    ],
    "default": {"decision": "deny", "status": 403},
}  # fmt: skip


def whsec():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


class Capture(http.server.ThreadingHTTPServer):
    """Takes every message and keeps it as it came."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), CaptureHandler)
        self.messages = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class CaptureHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.messages.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Hooked(World):
    """A gateway of its own, with the example receiver behind it."""

    def __init__(self, directory, models):
        super().__init__(directory)
        self.chat_port, self.embeddings_port, self.ollama_port = (
            models.chat_port, models.embeddings_port, models.ollama_port,
        )  # fmt: skip
        self.receiver_port, self.capture = free_port(), Capture()
        self.rules, self.events = directory / "rules.yaml", directory / "events.jsonl"
        self.rules.write_text(yaml.safe_dump(RULES))
        self.secrets_of_iam = [whsec(), whsec()]
        (directory / "secrets.txt").write_text(self.secrets_of_iam[0])
        self.secrets += self.secrets_of_iam
        self.make_certificate("iam")
        self.receiver = None

    def make_certificate(self, name):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", f"{name}.key", "-out", f"{name}.crt"],
            cwd=self.directory, check=True, capture_output=True,
        )  # fmt: skip

    def configuration(self):
        secrets = json.dumps(self.secrets_of_iam)
        events = json.dumps([f"doorward.event.{kind}" for kind in ("key.created", "key.revoked", "certificate.issued")])
        where = f"""
url     = "https://localhost:{self.receiver_port}/doorward"
ca_file = "iam.crt"
secrets = {secrets}
timeout = "2s"
"""
        return super().configuration() + f"""
[[grant]]
owner   = "acme/hooked"
webhook = "iam"

[[grant]]
owner   = "acme/research"
webhook = "iam"

[[grant]]
owner   = "acme/stale"
webhook = "stale"

[[grant]]
owner            = "acme/open"
webhook          = "open"
accept_fail_open = true

[webhook.iam]
{where}
events  = {events}
allow_overrides = ["max_tokens"]

[webhook.stale]
{where}
on_error  = "stale"
stale_max = "2m"

[webhook.open]
{where}
on_error = "allow"

[[model]]
name    = "llama-tiny"
targets = [{{ backend = "chat", model = "tiny-llama" }}]

[webhook.capture]
url     = "http://127.0.0.1:{self.capture.server_port}/doorward"
secrets = {secrets}
events  = ["doorward.event.key.created"]
"""

    def start_receiver(self, *options, certificate="iam"):
        self.receiver = self.start(
            "receiver", sys.executable, RECEIVER / "receiver.py", "--listen", f"127.0.0.1:{self.receiver_port}",
            "--certificate", f"{certificate}.crt", "--key", f"{certificate}.key", "--secrets", "secrets.txt", "--events", self.events,
            *(options or ["--rules", self.rules]),
        )  # fmt: skip
        log = self.directory / "receiver.log"
        poll(10, "the receiver listens", lambda: self.alive() and "listening" in log.read_text())

    def kill(self, process):
        """Ends a process with SIGKILL."""
        self.processes = [(name, other) for name, other in self.processes if other is not process]
        process.kill()
        process.wait(5)

    def serve(self):
        self.gateway = self.start(
            "gateway", os.environ["DOORWARD_BIN"], "serve", "--config", self.config, LLAMA_KEY=BACKEND_KEY
        )
        poll(30, "the gateway is ready", lambda: self.get(self.admin("/readyz"))[0] == 200)

    def told(self):
        if not self.events.exists():
            return []
        return [json.loads(line) for line in self.events.read_text().splitlines()]

    def told_of(self, kind, key):
        return [e for e in self.told() if e["type"] == f"doorward.event.{kind}" and e["data"]["key_id"] == key.id]


@pytest.fixture(scope="module")
def hooked(world, tmp_path_factory):
    hooked = Hooked(tmp_path_factory.mktemp("hooked"), world)
    try:
        hooked.config.write_text(hooked.configuration())
        hooked.cli("ca", "init", "--trust-domain", "sdk.example")
        hooked.certificate("app-first")  # and ca.crt
        hooked.start_receiver()
        hooked.serve()
        yield hooked
        hooked.alive()
    finally:
        hooked.stop()
        hooked.capture.shutdown()


def test_what_the_command_line_does_reaches_the_receiver(hooked):
    key = hooked.key("acme/apps/one")
    hooked.cli("key", "revoke", key.id)
    poll(5, "both are told", lambda: hooked.told_of("key.revoked", key))
    (created,), (revoked,) = hooked.told_of("key.created", key), hooked.told_of("key.revoked", key)
    assert created["data"]["owner"] == "acme/apps/one"
    assert created["gateway"] == {"id": "sdk"} and created["id"] != revoked["id"]
    assert hooked.told().index(created) < hooked.told().index(revoked)


class Asker:
    """A caller below each of three owners; each owner's webhook has another on_error."""

    def __init__(self, hooked):
        self.hooked = hooked
        self.callers = {
            mode: in_force(Caller(hooked, None, hooked.key(f"acme/{mode}/{os.getpid()}")))
            for mode in ("hooked", "stale", "open")
        }

    def ask(self, mode):
        """Status, code, and what the record says that the webhook said."""
        caller = self.callers[mode]
        with caller.http(httpx) as http:
            url = self.hooked.url + "/v1/chat/completions"
            reply = http.post(url, json=chat(), headers=caller.headers())
        (said,) = self.hooked.entry(reply.headers["x-request-id"])["webhooks"]
        code = None if reply.status_code == 200 else reply.json()["error"]["code"]
        return reply.status_code, code, said["decision"], said["source"]


@pytest.fixture(scope="module")
def asker(hooked):
    return Asker(hooked)


def test_the_receiver_has_the_last_word(hooked, asker):
    assert asker.ask("hooked") == (200, None, "allow", "fresh")
    stranger = in_force(Caller(hooked, None, hooked.key("acme/hooked/stranger")))
    with stranger.http(httpx) as http:
        reply = http.post(hooked.url + "/v1/chat/completions", json=chat(), headers=stranger.headers())
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "Ask the help desk.")
    entry = hooked.entry(reply.headers["x-request-id"])
    assert entry["code"] == "denied_by_webhook" and "suspended" in entry["detail"]


def stopped(hooked):
    hooked.receiver.send_signal(signal.SIGSTOP)
    return lambda: hooked.receiver.send_signal(signal.SIGCONT)


def killed(hooked):
    hooked.kill(hooked.receiver)
    return hooked.start_receiver


def without_rules(hooked):
    hooked.rules.write_text("rules: [")
    return lambda: hooked.rules.write_text(yaml.safe_dump(RULES))


def with_another_secret(hooked):
    secrets = hooked.directory / "secrets.txt"
    right = secrets.read_text()
    hooked.kill(hooked.receiver)
    secrets.write_text(whsec())
    hooked.start_receiver()

    def mend():
        hooked.kill(hooked.receiver)
        secrets.write_text(right)
        hooked.start_receiver()

    return mend


def with_another_certificate(hooked):
    """For the right name, of its own making."""
    hooked.make_certificate("impostor")
    hooked.kill(hooked.receiver)
    hooked.start_receiver(certificate="impostor")

    def mend():
        hooked.kill(hooked.receiver)
        hooked.start_receiver()

    return mend


@pytest.mark.parametrize("fault", [stopped, killed, without_rules, with_another_secret, with_another_certificate])
def test_what_on_error_says_happens_when_the_receiver_fails(hooked, asker, fault):
    for mode in asker.callers:
        poll(90, "the webhook is asked again", lambda mode=mode: asker.ask(mode)[3] == "fresh", 0.5)
    mend = fault(hooked)
    try:
        assert asker.ask("hooked") == (503, "authorization_unavailable", "error", None)
        assert asker.ask("open") == (200, None, "allow", "fail_open")
        poll(5, "what was allowed is old", lambda: asker.ask("stale") == (200, None, "allow", "stale"), 0.3)
    finally:
        mend()
    poll(90, "the webhook is asked again", lambda: asker.ask("hooked") == (200, None, "allow", "fresh"), 0.5)


def webhook_test(hooked, *arguments):
    command = [os.environ["DOORWARD_BIN"], "webhook", "test", *arguments, "--config", hooked.config]
    environment = {**os.environ, "LLAMA_KEY": BACKEND_KEY}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_asks_a_webhook(hooked):
    code, said, _ = webhook_test(hooked, "iam", "--output", "json")
    said = json.loads(said)
    assert (code, said["decision"], said["ttl_s"], said["owner"]) == (0, "allow", 0, "acme/hooked")
    code, said, _ = webhook_test(hooked, "iam", "--deny-sample")
    assert code == 0 and said.startswith("deny for nobody/knows/this: webhook iam at https://localhost:")
    assert "status          403" in said
    hooked.rules.write_text("default: {decision: allow}")
    code, said, complaint = webhook_test(hooked, "iam", "--deny-sample")
    assert code == 1 and said.startswith("allow for") and "allows nobody/knows/this" in complaint
    mend = without_rules(hooked)
    code, said, complaint = webhook_test(hooked, "iam")
    mend()
    assert (code, said) == (1, "") and "the status is 500" in complaint and "hint:" in complaint


class Opa(http.server.ThreadingHTTPServer):
    """OPA's data API (POST /v1/data/PATH) around another engine for Rego. What is undefined is left out of the answer; a
    rule that says two things at once is status 500."""

    daemon_threads = True

    def __init__(self, policy):
        super().__init__(("127.0.0.1", 0), OpaHandler)
        self.policy = policy
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, rule):
        return f"http://127.0.0.1:{self.server_port}/v1/data/{rule}"


def evaluated(policy, rule, question):
    """The status and the body of OPA's answer."""
    engine = regopy.Interpreter()
    engine.add_module("opa.rego", policy)
    engine.set_input(question)
    said = engine.query("data." + rule.replace("/", "."))
    if not said.ok():
        return 500, {"code": "internal_error", "message": str(said)}
    return 200, {"result": said[0][0]} if said[0].expressions else {}


class OpaHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        status, answer = evaluated(self.server.policy, self.path.removeprefix("/v1/data/"), question)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_policy_for_opa_is_that_of_the_documentation():
    """And it decides the question that is shown there."""
    (shown,) = re.findall(r"```rego\n(.*?)```", DOCUMENT, re.S)
    assert shown == POLICY.read_text()
    (question,) = (json.loads(text) for text in re.findall(r'```json\n(\{"version":1,"type".*?)```', DOCUMENT, re.S))
    allowed = (200, {"result": {"decision": "allow", "ttl_s": 20, "overrides": {}}})
    assert evaluated(shown, "doorward/decision", question) == allowed
    question["request"]["endpoint"] = "openai.completions"
    assert evaluated(shown, "doorward/decision", question)[1]["result"]["decision"] == "deny"
    # What is nobody's question is no reason to allow.
    assert evaluated(shown, "doorward/decision", {})[1]["result"]["decision"] == "deny"


@pytest.fixture
def asked_of_opa(hooked):
    """Starts the receiver before a policy, and gives back the rules at the end."""
    engines = []

    def ask_opa(policy, rule):
        engines.append(Opa(policy))
        hooked.kill(hooked.receiver)
        hooked.start_receiver("--opa", engines[-1].url(rule))

    yield ask_opa
    hooked.kill(hooked.receiver)
    hooked.start_receiver()
    for engine in engines:
        engine.shutdown()


class Researcher:
    """A caller below acme/research."""

    def __init__(self, hooked, name):
        self.hooked, self.caller = hooked, in_force(Caller(hooked, None, hooked.key(f"acme/research/{name}")))

    def ask(self, model="llama-tiny", **more):
        with self.caller.http(httpx) as http:
            url = self.hooked.url + "/v1/chat/completions"
            return http.post(url, json=chat(model, **more), headers=self.caller.headers())

    def decided(self, reply):
        entry = self.hooked.entry(reply.headers["x-request-id"])
        (said,) = entry["webhooks"]
        return said["decision"], entry["detail"] or ""


def test_the_policy_for_opa_decides(hooked, asker, asked_of_opa):
    """Allow, narrow, deny with a message for the caller, and deny what no rule fits."""
    asked_of_opa(POLICY.read_text(), "doorward/decision")
    alice, guest = Researcher(hooked, "alice"), Researcher(hooked, "guests/bob")
    poll(90, "OPA decides", lambda: alice.ask().status_code == 200, 0.5)
    for caller, cap in [(alice, 200), (guest, 64)]:
        reply = caller.ask(max_tokens=200)
        assert (reply.status_code, reply.json()["usage"]["completion_tokens"]) == (200, cap), reply.text
        assert caller.decided(reply)[0] == "allow"
    suspended = Researcher(hooked, "suspended/eve")
    reply = suspended.ask()
    assert (reply.status_code, reply.json()["error"]["message"]) == (402, "Your project is suspended. Ask the help desk.")
    decision, why = suspended.decided(reply)
    assert decision == "deny" and "suspended in opa.rego" in why
    reply = alice.ask("tiny")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "denied_by_webhook")
    assert asker.ask("hooked") == (403, "denied_by_webhook", "deny", "fresh"), "an owner that the policy does not know"


SAYS_TWO_THINGS = """
package doorward
import rego.v1
decision := {"decision": "allow"} if true
decision := {"decision": "deny"} if true
"""


@pytest.mark.parametrize(
    "policy, rule",
    [
        (POLICY.read_text(), "doorward/decisions"),
        (POLICY.read_text().replace("default decision :=", "unused :="), "doorward/decision"),
        (SAYS_TWO_THINGS, "doorward/decision"),
        ("package doorward\ndecision := {", "doorward/decision"),
    ],
    ids=["another path", "no default", "two decisions", "no policy"],
)
def test_what_opa_leaves_undefined_lets_nobody_pass(hooked, asked_of_opa, request, policy, rule):
    """It is no decision: on_error decides, and says deny unless somebody wrote something else."""
    asked_of_opa(policy, rule)
    # Nobody who was decided on before: that would be remembered.
    stranger = Researcher(hooked, request.node.callspec.id.replace(" ", "-") + "/alice")
    reply = stranger.ask("tiny")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "authorization_unavailable")
    assert stranger.decided(reply)[0] == "error"


def verified_by_npm(cases):
    lines = "".join(
        json.dumps({"secret": secret, "headers": headers, "body": body}) + "\n" for secret, headers, body in cases
    )
    done = subprocess.run(
        ["node", pathlib.Path(__file__).parent / "verify.mjs"], input=lines, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return [line == "good" for line in done.stdout.splitlines()]


def verified_by_pypi(cases):
    def good(secret, headers, body):
        try:
            return standardwebhooks.Webhook(secret).verify(body, headers) == json.loads(body)
        except standardwebhooks.WebhookVerificationError:
            return False

    return [good(*case) for case in cases]


@pytest.mark.parametrize("verified", [verified_by_pypi, verified_by_npm])
def test_signatures_are_good_for_both_libraries_and_bad_when_anything_differs(hooked, verified):
    """Both secrets of a rotation verify. An old message, an other body, id or time does not."""
    before = len(hooked.capture.messages)
    hooked.key("acme/apps/one")
    poll(5, "the message", lambda: len(hooked.capture.messages) > before)
    headers, body = hooked.capture.messages[before]
    one, two = hooked.secrets_of_iam
    late = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}
    named = {**headers, "webhook-id": headers["webhook-id"][:-1] + "x"}
    cases = [
        (one, headers, body), (two, headers, body),
        (whsec(), headers, body), (one, headers, body.replace("created", "revoked")), (one, late, body),
        (one, named, body), (two, {**headers, "webhook-signature": headers["webhook-signature"][::-1]}, body),
    ]  # fmt: skip
    assert verified(cases) == [True, True] + [False] * 5


@pytest.mark.parametrize("verified", [verified_by_pypi, verified_by_npm])
def test_a_replay_outside_of_the_tolerance_is_refused(verified):
    """What was signed six minutes ago is signed rightly, and old."""
    secret, body = whsec(), '{"type":"doorward.event.key.created"}'
    cases = []
    for age in (0, 360):
        at = datetime.datetime.fromtimestamp(int(time.time()) - age, datetime.timezone.utc)
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": standardwebhooks.Webhook(secret).sign("evt_1", at, body),
        }
        cases.append((secret, headers, body))
    assert verified(cases) == [True, False]


def test_kill_9_loses_nothing_while_the_receiver_is_down(hooked):
    """Keys of before the kill, of while nothing runs, and of after: each is told, in order, and counts once."""
    hooked.kill(hooked.receiver)
    keys = [hooked.key("acme/apps/two") for _ in range(3)]
    hooked.kill(hooked.gateway)
    keys += [hooked.key("acme/apps/two") for _ in range(3)]
    hooked.serve()
    keys += [hooked.key("acme/apps/two") for _ in range(3)]
    hooked.start_receiver()
    poll(20, "all are told", lambda: hooked.told_of("key.created", keys[-1]))
    ids = [key.id for key in keys]
    assert [e["data"]["key_id"] for e in hooked.told() if e["data"].get("key_id") in ids] == ids
    assert len({e["id"] for e in hooked.told()}) == len(hooked.told())


def test_kill_9_in_the_middle_of_telling_loses_nothing(hooked):
    """What was under way comes again under its id, and the receiver drops it: each counts once, in order."""
    hooked.kill(hooked.receiver)
    keys = [hooked.key("acme/apps/many") for _ in range(25)]
    hooked.start_receiver()
    ids = [key.id for key in keys]
    for share in (1, 8, 16):
        poll(20, "some are told", lambda share=share: hooked.told_of("key.created", keys[share]), 0.001)
        hooked.kill(hooked.gateway)
        hooked.serve()
    poll(20, "all are told", lambda: hooked.told_of("key.created", keys[-1]))
    assert [e["data"]["key_id"] for e in hooked.told() if e["data"].get("key_id") in ids] == ids


def test_a_receiver_with_another_secret_is_told_nothing(hooked):
    """It answers 401; what waits is told once it has a secret that signs: the second does too."""
    hooked.kill(hooked.receiver)
    (hooked.directory / "secrets.txt").write_text(whsec())
    hooked.start_receiver()
    key = hooked.key("acme/apps/three")
    log = hooked.directory / "receiver.log"
    poll(5, "the message is refused", lambda: "No matching signature" in log.read_text())
    hooked.kill(hooked.receiver)
    (hooked.directory / "secrets.txt").write_text(hooked.secrets_of_iam[1])
    hooked.start_receiver()
    poll(20, "it is told", lambda: hooked.told_of("key.created", key))
    (hooked.directory / "secrets.txt").write_text(hooked.secrets_of_iam[0])


def test_no_secret_is_in_what_is_told_or_logged(hooked):
    text = hooked.events.read_text() + "".join(str(message) for message in hooked.capture.messages)
    text += (hooked.directory / "gateway.log").read_text() + (hooked.directory / "receiver.log").read_text()
    assert hooked.told()
    for secret in hooked.secrets:
        assert secret not in text and secret.rpartition("_")[2] not in text
