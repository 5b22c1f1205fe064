"""Revocation on open connections and live streams; hang-ups."""

import json
import socket
import threading
import time

import h2.connection
import h2.errors
import h2.events
import httpx
import httpx2
import openai
import pytest

from world import ENDLESS, chat, local_port, poll


def revoke(world, kind, name):
    """Revokes and returns when that was said to be done."""
    if kind == "key":
        world.cli("key", "revoke", name)
    else:
        world.cli("cert", "revoke", "--name", name)
    return time.monotonic()


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_revocation_is_in_force_within_a_second_on_an_open_connection(world, new_caller, kind, http2):
    caller, name = new_caller(kind)
    with caller.http(httpx, http2=http2) as http:

        def ask():
            return http.post(world.url + "/v1/chat/completions", json=chat(), headers=caller.headers())

        before = ask()
        assert before.status_code == 200
        revoked = revoke(world, kind, name)
        after = poll(3, "the refusal", lambda: (lambda r: r.status_code != 200 and r)(ask()))
        assert time.monotonic() - revoked < 1
        assert (after.status_code, after.json()["error"]["code"]) == (401, "invalid_credentials")
        assert local_port(after) == local_port(before)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_a_live_stream_of_the_revoked_ends_within_two_seconds_and_not_cleanly(world, new_caller, kind, http2):
    caller, name = new_caller(kind)
    body = chat(stream=True, max_tokens=ENDLESS)
    ended, seen = [], bytearray()
    with caller.http(httpx, http2=http2) as http:
        with http.stream("POST", world.url + "/v1/chat/completions", json=body, headers=caller.headers()) as answer:
            assert answer.status_code == 200
            flowing = threading.Event()

            def read():
                try:
                    for part in answer.iter_raw():
                        seen[:] = seen[-4096:] + part
                        flowing.set()
                    ended.append("cleanly")
                except httpx.TransportError as error:
                    ended.append(error)
                ended.append(time.monotonic())

            reader = threading.Thread(target=read)
            reader.start()
            assert flowing.wait(10)
            revoked = revoke(world, kind, name)
            reader.join(10)
            assert not reader.is_alive(), "the stream goes on"
    how, when = ended
    assert how != "cleanly", bytes(seen[-300:])
    assert when - revoked < 2
    assert b"[DONE]" not in seen
    poll(1, "the backend is idle", lambda: world.busy() == 0)
    entry = world.entry(answer.headers["x-request-id"])
    assert (entry["outcome"], entry["status"]) == ("ended", 200)


def test_the_client_sees_that_its_stream_was_cut(world, new_caller):
    caller, name = new_caller("key")
    client = openai.OpenAI(
        base_url=world.url + "/v1", api_key=caller.credential, http_client=caller.http(httpx2), max_retries=0
    )
    events = client.chat.completions.create(**chat(max_tokens=ENDLESS), stream=True)
    next(iter(events))
    world.cli("key", "revoke", name)
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        for _ in events:
            pass


def gone(world, request_id):
    """The backend works on nothing within a second, and the record says why."""
    left = time.monotonic()
    poll(3, "the backend is idle", lambda: world.busy() == 0)
    assert time.monotonic() - left < 1
    entry = world.entry(request_id)
    assert (entry["outcome"], entry["status"], entry["stream"]) == ("caller_gone", 200, True)


def test_a_hang_up_reaches_the_backend_within_a_second(world, by_key):
    # The backend may still be at the end of what the test before had cut.
    poll(3, "the backend is idle", lambda: world.busy() == 0)
    body = chat(stream=True, max_tokens=ENDLESS)
    with by_key.http(httpx) as http:
        with http.stream("POST", world.url + "/v1/chat/completions", json=body, headers=by_key.headers()) as answer:
            parts = answer.iter_raw()
            next(parts)
            assert world.busy() == 1
            parts.close()
        gone(world, answer.headers["x-request-id"])


def test_a_reset_of_one_http2_stream_reaches_the_backend_and_leaves_the_others(world, by_key):
    """httpx never resets a stream that it gives up, as browsers and Node do: this speaks HTTP/2 by itself."""
    assert world.busy() == 0
    tls = world.tls()
    tls.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", world.port), 10) as plain:
        with tls.wrap_socket(plain, server_hostname="localhost") as wire:
            peer = h2.connection.H2Connection()
            peer.initiate_connection()

            def ask(number, **options):
                headers = [(":method", "POST"), (":scheme", "https"), (":path", "/v1/chat/completions"),
                           (":authority", f"localhost:{world.port}"), ("content-type", "application/json"),
                           *((name.lower(), value) for name, value in by_key.headers().items())]  # fmt: skip
                peer.send_headers(number, headers)
                peer.send_data(number, json.dumps(chat(**options)).encode(), end_stream=True)
                wire.sendall(peer.data_to_send())

            def until(kind, number):
                while True:
                    events = peer.receive_data(wire.recv(65536))
                    for event in events:
                        if isinstance(event, h2.events.DataReceived):
                            peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    wire.sendall(peer.data_to_send())
                    for event in events:
                        if isinstance(event, kind) and event.stream_id == number:
                            return event

            ask(1, stream=True, max_tokens=ENDLESS)
            head = dict(until(h2.events.ResponseReceived, 1).headers)
            until(h2.events.DataReceived, 1)
            peer.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
            wire.sendall(peer.data_to_send())
            gone(world, head[b"x-request-id"].decode())
            ask(3)
            assert dict(until(h2.events.ResponseReceived, 3).headers)[b":status"] == b"200"


def test_a_connection_that_closes_takes_its_http2_streams_along(world, by_key):
    assert world.busy() == 0
    body = chat(stream=True, max_tokens=ENDLESS)
    with by_key.http(httpx, http2=True) as http:
        with http.stream("POST", world.url + "/v1/chat/completions", json=body, headers=by_key.headers()) as answer:
            next(answer.iter_raw())
            assert world.busy() == 1
    gone(world, answer.headers["x-request-id"])


def test_a_hang_up_before_the_answer_reaches_the_backend_too(world, by_key):
    asked, left = world.silent.asked, world.silent.left
    with by_key.http(httpx) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post(world.url + "/v1/chat/completions", json=chat("silent"), headers=by_key.headers(), timeout=1)
        assert world.silent.asked == asked + 1
        since = time.monotonic()
        poll(3, "the backend's connection closes", lambda: world.silent.left == left + 1)
        assert time.monotonic() - since < 1
    entry = poll(2, "the record", lambda: [e for e in world.entries() if e["model"] == "silent"])[0]
    assert (entry["outcome"], entry["status"], entry["backend"]) == ("caller_gone", None, "silent")


def test_an_expired_key_is_refused_on_an_open_connection(world, new_caller):
    """Expiry is exact to a second, on a connection that was used before."""
    caller, _ = new_caller("key")
    short = world.key("acme/apps/short", "--expires", "3s")
    made = time.monotonic()
    caller.key = short
    with caller.http(httpx) as http:

        def status():
            return http.get(world.url + "/v1/models", headers=caller.headers()).status_code

        poll(2, "the key is in force", lambda: status() == 200, 0.1)
        poll(5, "the key is over", lambda: status() == 401)
        assert 1.5 < time.monotonic() - made < 4.5
