"""What all the tests before left behind: records, logs, metrics. Runs last."""

import collections
import re
import socket
import threading
import time

import httpx

from world import BACKEND_KEY, CANARY, ENDLESS, REPO, chat, poll

FIELDS = [
    "ts", "request_id", "outcome", "status", "code", "owner", "identity_owner", "key_id", "identity", "client_ip",
    "endpoint", "model", "target", "backend", "stream", "bytes_in", "bytes_out", "ttfb_ms", "duration_ms", "kx", "webhooks",
    "detail",
]  # fmt: skip


def test_a_record_says_who_what_and_how(world, by_both):
    with by_both.http(httpx) as http:
        answer = http.post(world.url + "/v1/chat/completions", json=chat(), headers=by_both.headers())
    entry = world.entry(answer.headers["x-request-id"])
    assert list(entry) == FIELDS
    assert (entry["outcome"], entry["status"], entry["code"]) == ("forwarded", 200, None)
    assert (entry["owner"], entry["identity_owner"]) == ("acme/both/three", "acme/both")
    assert entry["key_id"] == by_both.key.id
    assert entry["identity"] == "spiffe://sdk.example/client/both-three"
    assert (entry["endpoint"], entry["model"], entry["backend"]) == ("openai.chat_completions", "tiny", "chat")
    assert entry["target"]
    assert entry["stream"] is False
    assert entry["bytes_in"] > 0
    assert entry["bytes_out"] > 0
    assert 0 < entry["ttfb_ms"] <= entry["duration_ms"]


def test_a_refusal_leaves_a_record(world, by_key):
    with by_key.http(httpx) as http:
        url = world.url + "/v1/chat/completions"
        answers = [
            (http.post(url, json=chat()), 401, "invalid_credentials"),
            (http.post(url, json=chat("nobody"), headers=by_key.headers()), 404, "model_not_found"),
            (http.get(url, headers=by_key.headers()), 405, "method_not_allowed"),
            (http.get(world.url + f"/{CANARY}", headers=by_key.headers()), 404, "not_found"),
        ]
    for answer, status, code in answers:
        entry = world.entry(answer.headers["x-request-id"])
        assert answer.status_code == status
        assert (entry["outcome"], entry["status"], entry["code"]) == ("refused", status, code)


def test_every_metric_and_every_field_is_documented(world):
    _, metrics = world.get(world.admin("/metrics"))
    series = {line.split("{")[0].split()[0] for line in metrics.splitlines() if not line.startswith("#")}
    names = {re.sub("_(sum|count|bucket)$", "", name) for name in series}
    documented = set(re.findall(r"^\| `(doorward_\w+)`", (REPO / "docs" / "metrics.md").read_text(), re.M))
    assert names <= documented, names - documented
    assert re.findall(r"^\| `(\w+)`", (REPO / "docs" / "records.md").read_text(), re.M) == FIELDS


def test_every_request_has_exactly_one_record(world):
    asked = collections.Counter(world.request_ids)
    assert len(asked) > 50
    assert max(asked.values()) == 1, "a request id was given twice"

    def recorded():
        return collections.Counter(entry["request_id"] for entry in world.entries())

    poll(3, "a record of every request", lambda: asked.keys() <= recorded().keys())
    assert max(recorded().values()) == 1


def test_no_secret_and_no_prompt_is_anywhere(world, by_key):
    """Not in records, not in logs, not in metrics: this looks at the bytes."""
    status, metrics = world.get(world.admin("/metrics"))
    assert status == 200
    written = {"metrics": metrics.encode()}
    for path in [world.directory / "gateway.log", *(world.directory / "state").rglob("*")]:
        # Keys and certificates are in the state directory on purpose; texts are not.
        if path.is_file() and path.suffix in (".log", ".jsonl"):
            written[str(path)] = path.read_bytes()
    assert str(world.records) in written
    for where, text in written.items():
        assert CANARY.encode() not in text, f"a prompt in {where}"
        for secret in world.secrets:
            assert secret.encode() not in text, f"a secret in {where}"
    assert BACKEND_KEY in world.secrets
    assert by_key.key.secret in world.secrets


def test_the_store_holds_no_key(world):
    for path in (world.directory / "state").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in world.secrets:
                assert secret.encode() not in content, path
                # Nor the part that matters.
                assert secret.rpartition("_")[2][:43].encode() not in content, path


def test_the_gateway_drains_when_told_to_end(world, by_key):
    """SIGTERM: no new connections; live streams have the drain time, and what is cut then does not look complete.
    Asked for last."""
    gateway = next(process for name, process in world.processes if name == "gateway")
    url = world.url + "/v1/chat/completions"
    texts = {}

    def read(length):
        with by_key.http(httpx) as http:
            body = chat(stream=True, max_tokens=length)
            with http.stream("POST", url, json=body, headers=by_key.headers()) as answer:
                begun.wait(10)
                texts[length] = [answer.headers["x-request-id"], ""]
                try:
                    for part in answer.iter_text():
                        texts[length][1] += part
                except httpx.TransportError:
                    texts[length].append("aborted")

    lengths = (200, ENDLESS)
    begun = threading.Barrier(len(lengths) + 1)
    readers = [threading.Thread(target=read, args=(length,)) for length in lengths]
    for reader in readers:
        reader.start()
    begun.wait(10)
    gateway.terminate()
    told = time.monotonic()
    poll(2, "not ready any more", lambda: world.get(world.admin("/readyz"))[0] == 503)

    def is_closed():
        try:
            socket.create_connection(("127.0.0.1", world.port), 2).close()
        except ConnectionRefusedError:
            return True

    poll(1, "no new connections", is_closed)
    for reader in readers:
        reader.join(10)
    assert 2.5 < time.monotonic() - told < 5
    assert gateway.wait(10) == 0
    whole, cut = (texts[length] for length in lengths)
    assert whole[1].rstrip().endswith("data: [DONE]")
    assert len(whole) == 2
    assert "[DONE]" not in cut[1]
    assert cut[2:] == ["aborted"]
    outcomes = {entry["request_id"]: entry["outcome"] for entry in world.entries()}
    assert (outcomes[whole[0]], outcomes[cut[0]]) == ("forwarded", "ended")
