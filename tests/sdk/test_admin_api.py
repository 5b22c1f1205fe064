"""The admin API as its OpenAPI document says: a validator of others reads the document, and judges real answers."""

import json

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from world import REPO

DOCUMENT = json.loads((REPO / "docs" / "openapi.json").read_text())
REGISTRY = Registry().with_resource("urn:doorward", Resource(DOCUMENT, specification=DRAFT202012))


@pytest.fixture(scope="module")
def admin(world):
    socket = str(world.directory / "state" / "admin.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://localhost") as client:
        yield client


def resolved(reference):
    assert reference.startswith("#/components/schemas/"), reference
    return {"$ref": "urn:doorward" + reference}


def check(answer, method, path):
    """The answer has the status, the type and the schema that the document gives."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    described = responses.get(str(answer.status_code))
    if described is None:
        described = DOCUMENT["components"]["responses"][responses["default"]["$ref"].rsplit("/", 1)[1]]
    ((kind, content),) = described["content"].items()
    assert answer.headers["content-type"] == kind
    OAS31Validator(resolved(content["schema"]["$ref"]), registry=REGISTRY).validate(answer.json())
    return answer.json()


def ask(admin, method, path, status, body=None, query=None, **fields):
    """Asks as a generated client would, and checks request and answer against the document."""
    operation = DOCUMENT["paths"][path][method]
    target = path
    for name, value in fields.items():
        target = target.replace("{" + name + "}", value.replace("/", "%2F"))
    if body is not None and status < 400:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        OAS31Validator(resolved(schema), registry=REGISTRY).validate(body)
    answer = admin.request(method.upper(), target, json=body, params=query)
    assert answer.status_code == status, answer.text
    return check(answer, method, path)


def test_the_document_is_valid_and_served(admin):
    validate(DOCUMENT)
    assert admin.get("/openapi.json").json() == DOCUMENT


def test_every_operation_answers_as_documented(admin):
    asked = set()

    def do(method, path, *rest, **named):
        asked.add((method, path))
        return ask(admin, method, path, *rest, **named)

    owner = "acme/openapi"
    do("put", "/v1/grants/{owner}", 200, {"models": ["*"], "max_key_ttl": "30d"}, owner=owner)
    do("get", "/v1/grants/{owner}", 200, owner=owner)
    do("get", "/v1/grants", 200)
    made = do("post", "/v1/keys", 201, {"owner": owner, "expires_at": "1h", "uses": 2, "labels": {"a": "b"}})
    key = made["id"]
    do("get", "/v1/keys", 200, query={"owner": owner, "limit": 1})
    do("get", "/v1/keys/{id}", 200, id=key)
    do("patch", "/v1/keys/{id}", 200, {"note": "x", "uses": None, "networks": ["127.0.0.1"]}, id=key)
    rotated = do("post", "/v1/keys/{id}/rotate", 201, {"overlap": "1m"}, id=key)
    do("post", "/v1/keys/{id}/revoke", 200, id=key)
    do("delete", "/v1/keys/{id}", 200, id=rotated["id"])
    keys = [{"owner": owner, "external_id": "sdk-1", "expires_at": "1h"}]
    do("post", "/v1/keys/import", 200, {"keys": keys})
    question = {"key": key, "from": "127.0.0.1", "endpoint": "openai.chat_completions", "model": "m"}
    do("post", "/v1/explain", 200, question)
    do("get", "/v1/owners", 200)
    do("post", "/v1/owners/{owner}/disable", 200, owner=owner)
    do("post", "/v1/owners/{owner}/enable", 200, owner=owner)
    do("delete", "/v1/grants/{owner}", 200, owner=owner)
    do("get", "/v1/certificates", 200)
    do("post", "/v1/names/{name}/revoke", 200, {"reason": "superseded"}, name="nobody-openapi")
    do("post", "/v1/certificates/{serial}/revoke", 404, {"reason": "superseded"}, serial="0123")
    bundle = do("post", "/v1/enrollments", 201, {"name": "openapi", "role": "client", "ttl": "5m"})
    do("get", "/v1/enrollments", 200)
    do("post", "/v1/enrollments/{id}/revoke", 200, id=bundle["id"])
    do("post", "/v1/webhook/invalidate", 200, {"owner": owner})
    do("get", "/v1/connectors", 200)
    do("post", "/v1/connectors/{connector}/drain", 404, connector="nobody")
    do("post", "/v1/connectors/{connector}/kick", 404, connector="nobody")
    every = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert asked == every

    # What is refused has the shape of a problem too.
    for status, method, path, body, fields in [
        (404, "get", "/v1/keys/{id}", None, {"id": "0123456789ab"}),
        (400, "get", "/v1/keys/{id}", None, {"id": "dw_0"}),
        (400, "post", "/v1/keys", {"owner": "Acme", "networks": []}, {}),
        (400, "post", "/v1/keys", {"ower": "acme"}, {}),
        (409, "post", "/v1/keys", {"owner": owner, "external_id": "sdk-1"}, {}),
    ]:
        ask(admin, method, path, status, body, **fields)
