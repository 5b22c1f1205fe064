"""The official OpenAI client."""

import asyncio

import httpx
import httpx2
import openai
import pytest

from world import CALL_A_TOOL, CANARY, Caller, Key, chat, poll

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client(caller, **options):
    options = {"max_retries": 0, "http_client": caller.http(httpx2)} | options
    return openai.OpenAI(base_url=caller.world.url + "/v1", api_key=caller.credential, **options)


def test_chat(caller):
    answer = client(caller).chat.completions.create(**chat())
    assert answer.model == "tiny"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


def test_chat_streamed(caller):
    events = list(client(caller).chat.completions.create(**chat(), stream=True))
    assert {event.model for event in events} == {"tiny"}
    assert "".join(choice.delta.content or "" for event in events for choice in event.choices)
    assert [c.finish_reason for event in events for c in event.choices if c.finish_reason] == ["length"]


def test_usage_of_a_stream_comes_when_asked_for(by_both):
    events = list(client(by_both).chat.completions.create(**chat(), stream=True, stream_options={"include_usage": True}))
    assert events[-1].usage.completion_tokens == 8


def test_multibyte_words_arrive_whole(by_key):
    """🦀 and 東京 are single tokens of the model: a cut or re-encoded character would show."""
    answer = "".join(
        choice.delta.content or ""
        for event in client(by_key).chat.completions.create(**chat() | {"max_tokens": 400, "seed": 7}, stream=True)
        for choice in event.choices
    )
    assert "\ufffd" not in answer
    assert any(ord(character) > 0x3000 for character in answer)


def test_tool_call(caller):
    answer = client(caller).chat.completions.create(**chat(), tools=[WEATHER], logit_bias=CALL_A_TOOL)
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather"
    assert "Paris" in call.arguments


def test_tool_call_streamed(by_both):
    events = client(by_both).chat.completions.create(**chat(), tools=[WEATHER], logit_bias=CALL_A_TOOL, stream=True)
    calls = [call for event in events for c in event.choices for call in c.delta.tool_calls or []]
    assert "".join(call.function.name or "" for call in calls) == "get_weather"
    assert "Paris" in "".join(call.function.arguments or "" for call in calls)


def test_completions(caller):
    answer = client(caller).completions.create(model="tiny", prompt=f"Once {CANARY}", max_tokens=5)
    assert (answer.model, answer.usage.completion_tokens) == ("tiny", 5)
    events = list(client(caller).completions.create(model="tiny", prompt="Once", max_tokens=5, stream=True))
    assert {event.model for event in events} == {"tiny"}


def test_responses(by_both):
    answer = client(by_both).responses.create(model="tiny", input=f"Hello {CANARY}", max_output_tokens=5)
    assert (answer.model, answer.status) == ("tiny", "completed")
    assert answer.output_text
    events = list(client(by_both).responses.create(model="tiny", input="Hello", max_output_tokens=5, stream=True))
    assert events[-1].type == "response.completed"
    assert events[-1].response.model == "tiny"
    assert not any("tiny-llama" in event.model_dump_json() for event in events)


def test_embeddings_go_to_the_target_that_names_them(caller):
    answer = client(caller).embeddings.create(model="tiny", input=["one", f"two {CANARY}"])
    assert answer.model == "tiny"
    assert [len(item.embedding) for item in answer.data] == [64, 64]


def test_one_alias_serves_every_dialect(by_key):
    openai_client = client(by_key)
    assert openai_client.chat.completions.create(**chat("acme/all-dialects")).model == "acme/all-dialects"
    assert openai_client.embeddings.create(model="acme/all-dialects", input="x").data


def test_models(caller):
    """Those that a client of this API can call: `tiny-ollama` is served in Ollama's dialect only."""
    listed = {model.id for model in client(caller).models.list()}
    assert listed == {"tiny", "acme/all-dialects", "site-llama", "gone", "silent"}
    assert client(caller).models.retrieve("tiny").id == "tiny"
    assert client(caller).models.retrieve("acme/all-dialects").id == "acme/all-dialects"


def test_models_are_those_of_the_key(new_caller):
    narrow, _ = new_caller("key", "--model", "tiny*", "--endpoint", "@models", "--endpoint", "@chat")
    assert {model.id for model in client(narrow).models.list()} == {"tiny"}
    with pytest.raises(openai.NotFoundError) as error:
        client(narrow).models.retrieve("gone")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client(narrow).chat.completions.create(**chat("acme/all-dialects"))
    assert error.value.code == "model_not_found"


def test_async_client(caller):
    async def talk():
        async with openai.AsyncOpenAI(
            base_url=caller.world.url + "/v1",
            api_key=caller.credential,
            http_client=caller.http(httpx2, asynchronous=True),
            max_retries=0,
        ) as asynchronous:
            answers = await asyncio.gather(*(asynchronous.chat.completions.create(**chat()) for _ in range(8)))
            assert {answer.model for answer in answers} == {"tiny"}
            stream = await asynchronous.chat.completions.create(**chat(), stream=True)
            assert {event.model async for event in stream} == {"tiny"}

    asyncio.run(talk())


def test_http2(caller):
    http2 = client(caller, http_client=caller.http(httpx, http2=True))
    raw = http2.chat.completions.with_raw_response.create(**chat())
    assert raw.http_response.http_version == "HTTP/2"
    assert raw.parse().model == "tiny"
    assert {event.model for event in http2.chat.completions.create(**chat(), stream=True)} == {"tiny"}


def refused(error_class, status, code, call):
    with pytest.raises(error_class) as error:
        call()
    assert type(error.value) is error_class
    assert (error.value.status_code, error.value.code) == (status, code)
    assert isinstance(error.value.body["message"], str)
    assert isinstance(error.value.body["type"], str)
    assert error.value.response.headers["x-doorward-origin"] == "gateway"
    assert error.value.request_id
    return error.value


def test_errors_are_the_classes_that_the_client_has_for_them(world, by_key, new_caller):
    def ask(caller, body=None, **options):
        return lambda: client(caller, **options).chat.completions.create(**(body or chat()))

    elsewhere = caller_of_another_network(world)
    chat_only, _ = new_caller("key", "--endpoint", "openai.chat_completions", "--endpoint", "ollama.version")

    wrong = "dw_000000000000_" + "x" * 49
    error = refused(openai.AuthenticationError, 401, "invalid_credentials", ask(Caller(world, None, Key("", wrong))))
    assert wrong not in error.response.text
    refused(openai.AuthenticationError, 401, "invalid_credentials", ask(Caller(world, None, None)))
    refused(openai.PermissionDeniedError, 403, "network_not_allowed", ask(elsewhere))
    refused(
        openai.PermissionDeniedError, 403, "endpoint_not_allowed",
        lambda: client(chat_only).embeddings.create(model="tiny", input="x"),
    )  # fmt: skip
    refused(openai.NotFoundError, 404, "model_not_found", ask(by_key, chat("gpt-4o")))
    # What the backend calls the model is no name for callers.
    refused(openai.NotFoundError, 404, "model_not_found", ask(by_key, chat("tiny-llama")))
    refused(openai.BadRequestError, 400, "invalid_body", ask(by_key, chat(extra_body={"stream": "true"})))
    refused(openai.APIStatusError, 413, "body_too_large", ask(by_key, chat(user="x" * 3_000_000)))
    error = refused(openai.InternalServerError, 503, "no_backend", ask(by_key, chat("gone")))
    assert 0 < int(error.response.headers["retry-after"]) <= 120
    assert str(world.chat_port) not in error.response.text


def caller_of_another_network(world):
    """A key for another network: it cannot be waited for with a request that succeeds."""
    caller = Caller(world, None, world.key("acme/apps/elsewhere", "--expires", "1h", "--network", "10.99.0.0/16"))
    with caller.http(httpx) as http:
        url = world.url + "/v1/models"
        poll(3, "the key is in force", lambda: http.get(url, headers=caller.headers()).status_code == 403, 0.1)
    return caller


def test_a_key_or_a_certificate_alone_is_not_both(world, by_both):
    refused(
        openai.AuthenticationError, 401, "certificate_required",
        lambda: client(Caller(world, None, by_both.key)).chat.completions.create(**chat()),
    )  # fmt: skip
    refused(
        openai.AuthenticationError, 401, "key_required",
        lambda: client(Caller(world, by_both.certificate, None)).chat.completions.create(**chat()),
    )  # fmt: skip


def test_an_error_of_the_backend_is_passed_on(by_key):
    """The model's context is full: llama.cpp says so, and the client shows its words."""
    with pytest.raises(openai.BadRequestError) as error:
        client(by_key).chat.completions.create(**chat() | {"messages": [{"role": "user", "content": "x " * 60_000}]})
    assert "context" in str(error.value)
    assert "x-doorward-origin" not in error.value.response.headers
