"""How the database is reached: servers that answer what nobody has asked, or nothing, or without an end."""
import os
import shutil
import select
import socket
import struct
import subprocess

import pytest

import fakeserver
from fakeserver import Endless, FakeServer, message, rows
from faults import Proxy
from processes import rss_bytes
from programs import is_sanitized
from waiting import wait_until
from wire import frame, sync_frame

SET_UP_LOCK = "pg_advisory_lock(7882266284294234996)"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'metric-collectord'"
END_WRITERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'"
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
        # AddressSanitizer keeps what was freed for a while
        assert rss_bytes(collector.pid) - before < (1 << 30 if is_sanitized() else 400 << 20)
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


# ---- locks that anybody can take ----


@pytest.fixture
def culprit(database):
    """A session of somebody else, in a transaction."""
    connection = database.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute("SET application_name = 'culprit'")
    yield cursor
    connection.close()


def test_first_set_up_says_whom_it_waits_for(start_collector, database, culprit):
    culprit.execute(f"SELECT {SET_UP_LOCK}")
    pid = culprit.connection.get_backend_pid()
    collector = start_collector(database)
    event = collector.wait_event("database_waits", timeout=10, pid=pid)
    assert (event["application"], event["user"]) == ("culprit", "postgres")
    assert "pg_terminate_backend" in event["hint"]
    assert event["level"] == "warning"
    assert not collector.find("migration_applied")
    collector.send(frame("m", 1))
    database.execute("SELECT pg_terminate_backend(%s)", pid)
    database.wait_count(1)


def test_set_up_lock_that_is_held_when_all_is_there(start_collector, database, culprit):
    """A start needs it no more, and housekeeping says who has it."""
    first = start_collector(database)
    first.wait_event("maintenance_done")
    first.stop()
    culprit.execute(f"SELECT {SET_UP_LOCK}")
    collector = start_collector(database, table__retention="90 days")
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert not collector.find("database_unavailable")


def test_batch_behind_a_lock_says_whom_it_waits_for(start_collector, database, culprit):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    culprit.execute("LOCK TABLE metrics IN SHARE MODE")
    collector.send(frame("m", 1))
    event = collector.wait_event("database_waits", pid=culprit.connection.get_backend_pid())
    assert event["for"] == "Lock relation"
    assert (event["application"], event["user"]) == ("culprit", "postgres")
    culprit.connection.rollback()
    database.wait_count(1)


# ---- leaving a server ----


def test_standby_that_is_away(start_collector, own_cluster):
    """A commit waits for it: that is said, and no backend is left behind."""
    own_cluster.start()
    database = own_cluster.create_database()
    own_cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    own_cluster.execute("SELECT pg_reload_conf()")
    collector = start_collector(database, database__connections=2)
    collector.wait_event("maintenance_done")  # nothing of that needs a standby
    mark = collector.mark()
    collector.send(frame("m", 1))
    event = collector.wait_event("database_waits", since=mark)
    assert event["for"] == "IPC SyncRep"
    assert "synchronous_standby_names" in event["hint"]
    assert database.value(OURS) <= 4
    collector.stop_at_once()
    database.wait_value(0, OURS)


@pytest.mark.slow
def test_what_no_standby_has_is_not_answered_for(start_collector, own_cluster):
    """The wait is given up, and the rows are on the primary; the answer comes with the standby's."""
    own_cluster.start()
    database = own_cluster.create_database()
    own_cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    own_cluster.execute("SELECT pg_reload_conf()")
    collector = start_collector(database)
    collector.wait_event("maintenance_done")
    with collector.sender(timeout=180) as sender:
        sender.send(frame("m", 1) + sync_frame(2, 1))
        collector.wait_event("database_unavailable", timeout=120)
        database.wait_count(1)
        assert not select.select([sender.sock], [], [], 0)[0]
        own_cluster.execute("ALTER SYSTEM RESET synchronous_standby_names")
        own_cluster.execute("SELECT pg_reload_conf()")
        assert sender.read_answer() == (1, 0)
    assert collector.statistics()["batches_repeated"] == 1
    assert database.value("SELECT count(*) FROM metrics") == 1


def test_statement_is_cancelled_when_the_collector_stops(start_collector, database, culprit):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    culprit.execute("LOCK TABLE metrics IN SHARE MODE")
    collector.send(frame("m", 1))
    database.wait_value(1, OURS + " AND wait_event_type = 'Lock'")
    collector.stop_at_once()
    database.wait_value(0, OURS)


class SilentProxy(Proxy):
    """On the connection on which marker goes to the server, nothing comes through from then on."""

    def __init__(self, target_port, marker):
        self.marker = marker
        self.silent = set()
        super().__init__(target_port)

    def _pump(self, source, sink, direction):
        pair = frozenset((source, sink))
        try:
            while data := source.recv(65536):
                if self.marker and direction == "up" and self.marker in data:
                    self.marker = None
                    self.silent.add(pair)
                if pair not in self.silent:
                    sink.sendall(data)
            if pair not in self.silent:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(source, sink)


@pytest.mark.slow
def test_connection_that_falls_silent_in_the_middle_of_set_up(start_collector, database):
    """DDL may take long, but the server has nothing to do for us: it is given up, and set up anew."""
    proxy = SilentProxy(database.cluster.port, b"CREATE TABLE")
    collector = start_collector(
        database, database__uri=f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}"
    )
    collector.send(frame("m", 1))
    wait_until(lambda: proxy.silent, what="the proxy is silent")
    database.wait_count(1, timeout=100)
    assert "nothing has come here" in collector.find("database_unavailable")[0]["error"]
    database.wait_value(0, OURS + " AND state LIKE 'idle in transaction%%'", timeout=10)
    proxy.close()


# ---- what a connection is made with ----


def test_rotated_password_file(start_collector, own_cluster, tmp_path):
    own_cluster.start()
    database = own_cluster.create_database()
    own_cluster.execute("CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'old'")
    own_cluster.require_password("writer")
    secret = tmp_path / "secret"
    secret.write_text("old\n")
    collector = start_collector(
        database, database__uri=database.uri_for("writer"), database__password_file=str(secret)
    )
    collector.send(frame("m", 1))
    database.wait_count(1)
    own_cluster.execute("ALTER ROLE writer PASSWORD 'new'")
    own_cluster.execute(END_WRITERS)
    collector.send(frame("m", 2))
    collector.wait_event("database_unavailable", sqlstate="28P01")
    secret.write_text("new\n")
    database.wait_count(2)
    secret.unlink()
    own_cluster.execute(END_WRITERS)
    collector.send(frame("m", 3))
    assert collector.wait_event("password_unreadable")["file"] == str(secret)


def certificate(directory, name):
    """A key and a certificate that it has signed itself, for 127.0.0.1."""
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls_server(own_cluster, tmp_path):
    key, cert = certificate(tmp_path, "server")
    for source, name in ((key, "server.key"), (cert, "server.crt")):
        target = os.path.join(own_cluster.data, name)
        shutil.copy(source, target)
        os.chmod(target, 0o600)
        if own_cluster.user:
            os.chown(target, own_cluster.user.pw_uid, own_cluster.user.pw_gid)
    with open(os.path.join(own_cluster.data, "postgresql.conf"), "a", encoding="utf-8") as file:
        file.write("ssl = on\n")
    own_cluster.start()
    return own_cluster.create_database(), cert


@pytest.mark.parametrize("what", ["wrong_ca", "no_ca", "open_key", "no_key"])
def test_tls_obstacles_have_hints(start_collector, tls_server, tmp_path, what):
    database, right = tls_server
    key, cert = certificate(tmp_path, "client")
    key.chmod(0o644 if what == "open_key" else 0o600)
    uri = {
        "wrong_ca": f"sslmode=verify-ca&sslrootcert={cert}",
        "no_ca": f"sslmode=verify-ca&sslrootcert={tmp_path}/nothing.crt",
        "open_key": f"sslmode=verify-ca&sslrootcert={right}&sslcert={cert}&sslkey={key}",
        "no_key": f"sslmode=verify-ca&sslrootcert={right}&sslcert={cert}&sslkey={tmp_path}/nothing.key",
    }[what]
    part = {"wrong_ca": "sslrootcert", "no_ca": "sslrootcert", "open_key": "chmod 600", "no_key": "sslkey"}[what]
    collector = start_collector(database, database__uri=f"{database.uri}?{uri}")
    event = collector.wait_event("database_unavailable")
    assert part in event["hint"]
    collector.write_conf(database__uri=f"{database.uri}?sslmode=verify-ca&sslrootcert={right}")
    collector.reload()
    collector.send(frame("m", 1))
    database.wait_count(1)
