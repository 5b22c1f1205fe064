"""What all the tests before left behind: records, logs, metrics. Runs last."""

import collections
import json

import httpx

from world import BACKEND_KEY, CANARY, chat, poll

FIELDS = [
    "ts", "request_id", "outcome", "status", "code", "owner", "identity_owner", "key_id", "identity", "client_ip",
    "endpoint", "model", "target", "backend", "stream", "bytes_in", "bytes_out", "ttfb_ms", "duration_ms", "kx", "detail",
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


def test_the_gateway_ends_when_told_and_lets_no_stream_look_complete(world, by_key):
    """SIGTERM: no new connections, live streams have the drain time; here it is asked for last."""
    with by_key.http(httpx) as http:
        body = chat(stream=True, max_tokens=200)
        with http.stream("POST", world.url + "/v1/chat/completions", json=body, headers=by_key.headers()) as answer:
            gateway = next(process for name, process in world.processes if name == "gateway")
            gateway.terminate()
            text = "".join(answer.iter_text())
    assert text.rstrip().endswith("data: [DONE]")
    assert gateway.wait(35) == 0
    assert world.entries()[-1]["request_id"] == answer.headers["x-request-id"]
    assert json.loads(world.records.read_text().splitlines()[-1])["outcome"] == "forwarded"
