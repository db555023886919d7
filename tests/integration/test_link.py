"""How the database is reached: servers that answer what nobody has asked, or nothing, or without an end."""
import struct

import pytest

import fakeserver
from fakeserver import Endless, FakeServer, message, rows
from processes import rss_bytes
from wire import frame

LOGGED_IN = message(b"R", struct.pack("!I", 0))
FLOODS = {
    "rows": Endless(fakeserver.row("x" * 100), begin=fakeserver.columns(1)),
    "empty_rows": Endless(fakeserver.row(), begin=fakeserver.columns(0)),
    "notices": Endless(fakeserver.NOTICE),
    "notifications": Endless(fakeserver.NOTIFICATION),
    "parameters": Endless(fakeserver.PARAMETER),
    "results": Endless(fakeserver.complete()),
}


@pytest.fixture
def against(new_collector):
    """Starts a collector on a server that is none."""

    def start(uri, **settings):
        settings = {"database__connect_timeout": 5, "database__uri": uri, **settings}
        return new_collector(**settings).start()

    return start


@pytest.mark.parametrize("answer", [fakeserver.complete() + fakeserver.READY, rows(("x",))], ids=["none", "other"])
def test_answer_without_a_row_to_who_asks_what_server_it_is(against, answer):
    """Asked whether it takes writes; it was the end of the daemon."""
    with FakeServer(otherwise=answer) as server:
        collector = against(server.uri + "?target_session_attrs=read-write")
        event = collector.wait_event("database_unavailable", sqlstate="08P01")
        assert "rows of" in event["error"]
        assert "database.uri" in event["hint"]
        assert collector.stop_at_once() == 0


@pytest.mark.parametrize(
    "answer",
    [b"", rows(("x",)), fakeserver.columns(0) + fakeserver.row(), fakeserver.columns(9)],
    ids=["nothing", "other", "empty", "many"],
)
def test_confirms_everything(against, answer):
    """No migration is taken for applied, and no batch for stored."""
    with FakeServer(otherwise=answer + fakeserver.complete() + fakeserver.READY) as server:
        collector = against(server.uri)
        collector.send(frame("m", 1))
        collector.wait_event("database_unavailable", count=3)
        assert not collector.find("migration_applied")
        assert collector.wait_statistics(stored=0)["received"] == 1
        assert collector.stop_at_once() == 0


@pytest.mark.parametrize("kind", ["COPY_OUT", "COPY_BOTH", "COPY_IN"])
def test_copy_where_it_does_not_belong(against, kind):
    with FakeServer(otherwise=getattr(fakeserver, kind)) as server:
        collector = against(server.uri)
        collector.wait_event("database_unavailable", sqlstate="08P01", count=2)
        assert server.connections >= 2
        assert collector.stop_at_once() == 0


@pytest.mark.parametrize("what", FLOODS)
def test_answer_without_an_end(against, what):
    with FakeServer(otherwise=FLOODS[what]) as server:
        collector = against(server.uri)
        before = rss_bytes(collector.pid)
        event = collector.wait_event("database_unavailable", timeout=70)
        assert event["sqlstate"] == "08P01"
        assert rss_bytes(collector.pid) - before < 400 << 20
        assert collector.stop_at_once() == 0


@pytest.mark.parametrize("what", ["notices", "parameters", "garbage"])
def test_greeting_without_an_end(against, database, what):
    """The next host is tried."""
    flood = {
        "notices": Endless(fakeserver.NOTICE, begin=LOGGED_IN),
        "parameters": Endless(fakeserver.PARAMETER, begin=LOGGED_IN),
        "garbage": Endless(b"\0"),
    }[what]
    with FakeServer(greeting=flood) as server:
        uri = f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{database.cluster.port}/{database.name}"
        collector = against(uri)
        collector.send(frame("m", 1))
        database.wait_count(1)
        assert server.connections >= 1


def test_greeting_that_drips(against, database):
    """connect_timeout holds also while something comes."""
    with FakeServer(greeting=Endless(fakeserver.NOTICE, LOGGED_IN, every=0.1)) as server:
        uri = f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{database.cluster.port}/{database.name}"
        collector = against(uri, database__connect_timeout=1)
        collector.send(frame("m", 1))
        database.wait_count(1)
        assert server.connections >= 1
