import itertools
import signal

import httpx
import pytest

from world import Caller, World, poll

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    try:
        world.start_model_servers()
        world.start_gateway()
        yield world
        world.alive()
    finally:
        world.stop()


def in_force(caller):
    """Waits until the gateway knows the caller: what the command line did counts within a second."""
    with caller.http(httpx) as http:
        url = caller.world.url + "/api/version"
        poll(3, "the new credential is in force", lambda: http.get(url, headers=caller.headers()).status_code == 200, 0.1)
    return caller


@pytest.fixture(scope="session")
def by_certificate(world):
    return in_force(Caller(world, world.certificate("app-one"), None))


@pytest.fixture(scope="session")
def by_key(world):
    return in_force(Caller(world, None, world.key("acme/apps/two", "--expires", "1h")))


@pytest.fixture(scope="session")
def by_both(world):
    return in_force(Caller(world, world.certificate("both-three"), world.key("acme/both/three", "--expires", "1h")))


@pytest.fixture(params=["by_certificate", "by_key", "by_both"])
def caller(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def new_caller(world):
    """Makes callers that a test may revoke: new_caller("certificate" | "key", OPTION...)."""

    def make(kind, *options):
        name = f"app-{next(NUMBERS)}"
        if kind == "certificate":
            return in_force(Caller(world, world.certificate(name), None)), name
        caller = in_force(Caller(world, None, world.key(f"acme/apps/{name}", "--expires", "1h", *options)))
        return caller, caller.key.id

    return make


def pytest_configure():
    """A run that is told to end stops what it started."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to end"))


def pytest_collection_modifyitems(items):
    """What all tests left behind is looked at last."""
    items.sort(key=lambda item: item.path.name == "test_records.py")
