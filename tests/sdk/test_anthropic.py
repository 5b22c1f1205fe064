"""The official Anthropic client."""

import anthropic
import httpx
import httpx2
import pytest

from world import CANARY, Caller, Key, PLACEHOLDER

MESSAGE = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": f"Hello {CANARY}"}]}


def client(caller, **options):
    options = {"max_retries": 0, "http_client": caller.http(httpx2)} | options
    return anthropic.Anthropic(base_url=caller.world.url, api_key=caller.credential, **options)


def test_messages(caller):
    answer = client(caller).messages.create(**MESSAGE)
    assert (answer.model, answer.type, answer.role) == ("tiny", "message", "assistant")
    assert answer.content[0].text
    assert answer.usage.output_tokens == 8


def test_messages_streamed(caller):
    with client(caller).messages.stream(**MESSAGE) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    assert text
    assert (answer.model, answer.stop_reason) == ("tiny", "max_tokens")


def test_raw_events(by_key):
    events = list(client(by_key).messages.create(**MESSAGE, stream=True))
    assert events[0].type == "message_start"
    assert events[0].message.model == "tiny"
    assert events[-1].type == "message_stop"
    assert not any("tiny-llama" in event.model_dump_json() for event in events)


def test_count_tokens(caller):
    counted = client(caller).messages.count_tokens(model="tiny", messages=MESSAGE["messages"])
    assert counted.input_tokens > 5


def test_http2(by_both):
    http2 = client(by_both, http_client=by_both.http(httpx2, http2=True))
    assert http2.messages.create(**MESSAGE).model == "tiny"
    assert list(http2.messages.create(**MESSAGE, stream=True))[-1].type == "message_stop"


def test_the_key_counts_as_x_api_key_and_as_bearer(world, by_key, by_certificate):
    with by_key.http(httpx) as http:
        for headers in ({"x-api-key": by_key.key.secret}, {"Authorization": f"Bearer {by_key.key.secret}"}):
            answer = http.post(world.url + "/v1/messages", json=MESSAGE, headers=headers)
            assert answer.status_code == 200, answer.text
        both = {"x-api-key": by_key.key.secret, "Authorization": f"Bearer {by_key.key.secret}"}
        assert http.post(world.url + "/v1/messages", json=MESSAGE, headers=both).status_code == 200
        both["x-api-key"] = "dw_000000000000_" + "x" * 49
        assert http.post(world.url + "/v1/messages", json=MESSAGE, headers=both).status_code == 401
    with by_certificate.http(httpx) as http:
        headers = {"x-api-key": PLACEHOLDER}
        assert http.post(world.url + "/v1/messages", json=MESSAGE, headers=headers).status_code == 200


def test_errors_are_the_classes_that_the_client_has_for_them(world, by_key):
    def refused(error_class, status, call):
        with pytest.raises(error_class) as error:
            call()
        assert type(error.value) is error_class
        assert error.value.status_code == status
        body = error.value.body
        assert body["type"] == "error"
        assert body["error"]["type"]
        assert body["error"]["message"] in str(error.value)
        return error.value

    stranger = Caller(world, None, Key("", "dw_000000000000_" + "x" * 49))
    refused(anthropic.AuthenticationError, 401, lambda: client(stranger).messages.create(**MESSAGE))
    refused(anthropic.NotFoundError, 404, lambda: client(by_key).messages.create(**MESSAGE | {"model": "claude"}))
    refused(
        anthropic.BadRequestError, 400,
        lambda: client(by_key).messages.create(**MESSAGE, extra_body={"stream": "true"}),
    )  # fmt: skip
    refused(anthropic.ServiceUnavailableError, 503, lambda: client(by_key).messages.create(**MESSAGE | {"model": "gone"}))
