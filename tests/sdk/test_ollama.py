"""The official Ollama client."""

import asyncio

import httpx
import ollama
import pytest

from world import CANARY, Caller, Key, World

MESSAGES = [{"role": "user", "content": f"Hello {CANARY}"}]
SHORT = {"num_predict": 8}


def options(caller: Caller):
    return {
        "host": caller.world.url,
        "verify": caller.world.tls(caller.certificate),
        "headers": {"Authorization": f"Bearer {caller.credential}"},
        "timeout": 30,
    }


def client(caller):
    return ollama.Client(**options(caller), event_hooks={"response": [caller.world.note]})


def test_chat(caller):
    answer = client(caller).chat("tiny-ollama", MESSAGES, options=SHORT)
    assert (answer.model, answer.done, answer.eval_count) == ("tiny-ollama", True, 8)
    assert answer.message.content


def test_chat_streamed(caller):
    lines = list(client(caller).chat("tiny-ollama", MESSAGES, options=SHORT, stream=True))
    assert {line.model for line in lines} == {"tiny-ollama"}
    assert [line.done for line in lines].count(True) == 1
    assert lines[-1].done
    assert "".join(line.message.content for line in lines)


def test_generate(caller):
    assert client(caller).generate("tiny-ollama", f"Once {CANARY}", options=SHORT).response
    lines = list(client(caller).generate("tiny-ollama", "Once", options=SHORT, stream=True))
    assert {line.model for line in lines} == {"tiny-ollama"}
    assert lines[-1].done


def test_streaming_is_what_ollama_does_when_not_asked(world: World, by_key):
    """Ollama streams unless told not to, and takes JSON under any content type."""
    with by_key.http(httpx) as http:
        body = b'{"model":"tiny-ollama","prompt":"Once","options":{"num_predict":3}}'
        headers = by_key.headers() | {"Content-Type": "application/x-www-form-urlencoded"}
        answer = http.post(world.url + "/api/generate", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert len(answer.text.splitlines()) >= 3
    assert "" not in answer.text.rstrip("\n").split("\n")


def test_embed(caller):
    answer = client(caller).embed("tiny-ollama", ["one", f"two {CANARY}"])
    assert answer.model == "tiny-ollama"
    assert [len(vector) for vector in answer.embeddings] == [64, 64]
    assert len(client(caller).embeddings("tiny-ollama", "one").embedding) == 64


def test_one_alias_serves_every_dialect(by_key):
    assert client(by_key).chat("acme/all-dialects", MESSAGES, options=SHORT).model == "acme/all-dialects"
    assert client(by_key).embed("acme/all-dialects", "one").embeddings


def test_list_show_ps(caller):
    listed = {model.model for model in client(caller).list().models}
    assert "tiny-ollama" in listed
    assert not any("shim" in name for name in listed)
    assert client(caller).show("tiny-ollama").capabilities == ["completion", "tools"]
    assert not any("shim" in (model.model or "") for model in client(caller).ps().models)


def test_async_client(by_both):
    async def talk():
        asynchronous = ollama.AsyncClient(**options(by_both), event_hooks={"response": [by_both.world.note_async]})
        assert (await asynchronous.chat("tiny-ollama", MESSAGES, options=SHORT)).model == "tiny-ollama"
        stream = await asynchronous.chat("tiny-ollama", MESSAGES, options=SHORT, stream=True)
        assert {line.model async for line in stream} == {"tiny-ollama"}

    asyncio.run(talk())


def test_errors_are_text(world, by_key):
    def refused(status, call):
        with pytest.raises(ollama.ResponseError) as error:
            call()
        assert error.value.status_code == status
        assert isinstance(error.value.error, str)
        assert error.value.error
        assert not error.value.error.startswith("{")

    stranger = Caller(world, None, Key("", "dw_000000000000_" + "x" * 49))
    refused(401, lambda: client(stranger).chat("tiny-ollama", MESSAGES))
    refused(404, lambda: client(by_key).chat("llama3.2", MESSAGES))
    refused(503, lambda: client(by_key).chat("gone", MESSAGES))


@pytest.mark.parametrize("verb", ["pull", "push", "create", "copy", "delete", "blobs/sha256:0", "me", "signout"])
def test_administration_has_no_name(world, by_key, verb):
    with by_key.http(httpx) as http:
        for method in ("POST", "DELETE", "HEAD"):
            answer = http.request(method, f"{world.url}/api/{verb}", json={"model": "shim-llama"}, headers=by_key.headers())
            assert answer.status_code in (404, 405), (method, verb, answer.status_code)
            assert "ADMIN" not in answer.text
