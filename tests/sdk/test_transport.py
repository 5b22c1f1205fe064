"""HTTP/1.1 and HTTP/2, curl, and what every answer carries."""

import json
import ssl
import subprocess

import httpx
import pytest

from world import CANARY, chat, local_port


@pytest.fixture
def curl(world, tmp_path):
    """Runs curl as the caller; returns status, HTTP version, body."""

    def run(caller, path, body, *options, ok=True):
        # The key is given in a file: arguments are for everybody to see.
        settings = tmp_path / "curl.conf"
        settings.write_text(
            "".join(f'header = "{name}: {value}"\n' for name, value in caller.headers().items()) if caller else ""
        )
        (tmp_path / "body").write_text(body)
        command = ["curl", "-sS", "-m", "30", "-K", settings, "--cacert", world.ca, "-w", "\n%{http_code} %{http_version}"]
        if caller and caller.certificate:
            command += ["--cert", caller.certificate.chain, "--key", caller.certificate.key]
        command += ["-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path}/body", *options]
        done = subprocess.run([*map(str, command), world.url + path], capture_output=True, text=True, timeout=40)
        if ok:
            assert done.returncode == 0, done.stderr
        body, _, last = done.stdout.rpartition("\n")
        status, version = last.split()
        return int(status), version, body

    return run


@pytest.mark.parametrize("option, version", [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl(curl, caller, option, version):
    status, spoken, body = curl(caller, "/v1/chat/completions", json.dumps(chat()), option)
    assert (status, spoken) == (200, version)
    assert json.loads(body)["model"] == "tiny"
    status, _, body = curl(caller, "/v1/chat/completions", json.dumps(chat(stream=True)), option, "-N")
    assert status == 200
    assert body.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
@pytest.mark.parametrize("size", [100, 60_000, 900_000, 5_000_000])
def test_curl_sees_an_early_refusal_and_not_a_reset(curl, option, size):
    body = json.dumps(chat(user="x" * size))
    status, _, text = curl(None, "/v1/chat/completions", body, option, ok=size < 1_000_000)
    assert status == 401
    if size < 200_000:
        assert json.loads(text)["error"]["code"] == "invalid_credentials"


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
@pytest.mark.parametrize("size", [1_100_000, 5_000_000])
def test_curl_sees_that_its_body_is_too_large(curl, by_key, option, size):
    status, _, text = curl(by_key, "/v1/chat/completions", json.dumps(chat(user="x" * size)), option, ok=False)
    assert status == 413
    if text:
        assert json.loads(text)["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "http2, size", [(False, 60_000), (False, 900_000), (False, 5_000_000), (True, 60_000), (True, 250_000)]
)
def test_httpx_sees_an_early_refusal_and_not_a_reset(world, by_key, http2, size):
    """Over HTTP/2 httpx reads no answer before it has sent its whole body, not even when the stream is reset: it sees
    refusals of bodies within the 256 KiB that are read and thrown away; curl sees all."""
    with by_key.http(httpx, http2=http2) as http:
        url = world.url + "/v1/chat/completions"
        stranger = http.post(url, json=chat(user="x" * size))
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "invalid_credentials")
        if size > 1_048_576:
            large = http.post(url, json=chat(user="x" * size), headers=by_key.headers())
            assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        after = http.post(url, json=chat(), headers=by_key.headers())
        assert after.status_code == 200


def test_curl_waits_for_a_hundred_continue(curl, by_key):
    status, _, body = curl(
        by_key, "/v1/chat/completions", json.dumps(chat(user="x" * 500_000)), "--http1.1",
        "-H", "Expect: 100-continue", "--expect100-timeout", "20",
    )  # fmt: skip
    assert status == 200, body


def test_curl_chunked(curl, by_key):
    status, _, body = curl(
        by_key, "/v1/chat/completions", json.dumps(chat()), "--http1.1", "-H", "Transfer-Encoding: chunked"
    )
    assert status == 200, body


@pytest.mark.parametrize("http2", [False, True])
def test_a_connection_serves_many_requests(caller, http2):
    with caller.http(httpx, http2=http2) as http:
        url = caller.world.url + "/v1/chat/completions"
        ports = set()
        for _ in range(5):
            answer = http.post(url, json=chat(), headers=caller.headers())
            assert answer.status_code == 200
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            ports.add(local_port(answer))
        refusal = http.post(url, json=chat("nobody"), headers=caller.headers())
        assert refusal.status_code == 404
        ports.add(local_port(refusal))
        assert len(ports) == 1


def test_the_reply_says_what_it_must_and_nothing_of_the_backend(by_both):
    with by_both.http(httpx) as http:
        answer = http.post(by_both.world.url + "/v1/chat/completions", json=chat(), headers=by_both.headers())
    assert answer.json()["model"] == "tiny"
    assert "x-doorward-origin" not in answer.headers
    assert not {"server", "set-cookie", "alt-svc", "access-control-allow-origin"} & set(answer.headers)


def test_unknown_fields_reach_the_backend_as_sent(by_key):
    """`n_probs` is llama.cpp's own: the gateway does not know it."""
    with by_key.http(httpx) as http:
        body = chat(n_probs=2, logprobs=True, max_tokens=2)
        answer = http.post(by_key.world.url + "/v1/chat/completions", json=body, headers=by_key.headers()).json()
    assert len(answer["choices"][0]["logprobs"]["content"]) == 2


@pytest.mark.parametrize(
    "path, status, code",
    [
        ("/v1/unknown", 404, "not_found"),
        ("/slots", 404, "not_found"),
        ("/props", 404, "not_found"),
        ("/metrics", 404, "not_found"),
        ("/v1/stream", 404, "not_found"),
        ("/v1/chat/completions/control", 404, "not_found"),
        ("/v1/Chat/completions", 404, "not_found"),
        ("/v1//chat/completions", 400, "invalid_path"),
        ("/v1/chat%2Fcompletions", 400, "invalid_path"),
        ("/v1/chat/completions;x=1", 400, "invalid_path"),
        ("/v1/chat/completions?model=tiny", 400, "invalid_path"),
        ("/v1/chat/completions?api_key=dw_000000000000_x", 400, "credential_in_query"),
    ],
)
def test_only_named_paths_exist(curl, by_key, path, status, code):
    got, _, body = curl(by_key, path, json.dumps(chat()), "--path-as-is")
    assert (got, json.loads(body)["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"tiny","model":"gone","messages":[]}',
        '{"model":"tiny","Model":"gone","messages":[]}',
        '{"model":"tiny","stream":"true","messages":[]}',
        '{"model":7,"messages":[]}',
        '{"messages":[]}',
        '{"model":"tiny","messages":[]} {}',
        '\ufeff{"model":"tiny","messages":[]}',
        "[]",
        "",
        '{"model":"tiny","messages":' + "[" * 70 + "]" * 70 + "}",
    ],
)
def test_two_readers_could_differ_on_it(curl, by_key, body):
    status, _, text = curl(by_key, "/v1/chat/completions", body)
    assert (status, json.loads(text)["error"]["code"]) == (400, "invalid_body")


def test_other_types_and_codings_are_not_read(curl, by_key):
    body = json.dumps(chat())
    for header in ("Content-Type: text/plain", "Content-Encoding: gzip"):
        options = ["-H", "Content-Type:"] if header.startswith("Content-Type") else []
        status, _, text = curl(by_key, "/v1/chat/completions", body, *options, "-H", header)
        assert (status, json.loads(text)["error"]["code"]) == (415, "unsupported_media_type"), header


def test_tls_1_2_and_strangers_get_no_connection(world, by_both, tmp_path):
    old = world.tls(by_both.certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError), httpx.Client(verify=old, trust_env=False) as http:
        http.get(world.url + "/v1/models")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=app-one", "-addext", "subjectAltName=URI:spiffe://sdk.example/client/app-one",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "chain.pem"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    stranger = world.tls()
    stranger.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)):
        with httpx.Client(verify=stranger, trust_env=False) as http:
            http.get(world.url + "/v1/models", headers=by_both.headers())


def test_no_connection_is_resumed(world, by_certificate):
    """A resumed session would skip the check of the certificate."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{world.port}", "-servername", "localhost", "-CAfile", world.ca,
         "-cert", by_certificate.certificate.chain, "-cert_chain", by_certificate.certificate.chain,
         "-key", by_certificate.certificate.key, "-ign_eof"],
        input="GET /api/version HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n" % world.port,
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "HTTP/1.1 200" in done.stdout
    assert "Post-Handshake New Session Ticket" not in done.stdout


def test_forwarding_headers_decide_nothing(world, by_key, new_caller):
    narrow, _ = new_caller("key", "--network", "127.0.0.1/32")
    with narrow.http(httpx) as http:
        lies = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X-Real-IP": "10.0.0.1"}
        answer = http.post(world.url + "/v1/chat/completions", json=chat(), headers=narrow.headers() | lies)
    assert answer.status_code == 200
    assert world.entry(answer.headers["x-request-id"])["client_ip"] == "127.0.0.1"


def test_a_browser_must_not_lend_a_certificate(world, by_certificate):
    with by_certificate.http(httpx) as http:
        answer = http.post(
            world.url + "/v1/chat/completions", json=chat(), headers={"Origin": f"https://{CANARY}.example"}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
