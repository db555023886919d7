"""Stopping, flushing, statistics and reloading."""
import itertools
import signal
import threading

import pytest

import wire
from cluster import free_port
from disks import shim, shim_library  # noqa: F401 (fixtures)
from waiting import wait_until
from wire import frame, series

# ---- SIGUSR1, SIGUSR2 ----


def test_sigusr1_flushes(start_collector, store):
    collector = start_collector(store, batch__interval=3600)
    collector.send(series("m", 100))
    assert collector.wait_statistics(received=100)["buffered"] == 100
    collector.flush()
    store.wait_count(100)


def test_sigusr2_logs_every_counter(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, batch__interval=3600)
    collector.send(series("m", 100) + frame("", 1))
    statistics = collector.statistics()
    assert statistics["level"] == "info"
    for key, value in {
        "received": 100,
        "stored": 0,
        "buffered": 100,
        "rejected": 0,
        "dropped": 0,
        "recovered": 0,
        "refused": 1,
        "refused_empty_name": 1,
        "bytes_received": 100 * len(frame("m", 0)) + len(frame("", 1)),
        "clients_total": 1,
        "memory_bytes": 100 * len(frame("m", 0)),
        "batches_stored": 0,
    }.items():
        assert statistics[key] == value, key


# ---- SIGTERM, SIGINT ----


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_stop_stores_the_open_batch(start_collector, store, signo):
    collector = start_collector(store, batch__interval=3600, buffer__spool="")
    collector.wait_event("database_connected")
    collector.send(series("m", 1000))
    assert collector.stop(signo) == 0
    assert store.count() == 1000
    names = [e["event"] for e in collector.events]
    assert names.index("stopping") < names.index("stopped")
    assert collector.stopped["stored"] == 1000


def test_stop_reads_what_is_in_the_sockets(start_collector, database):
    """Also from connections that nobody has accepted yet."""
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    senders = [collector.sender() for _ in range(5)]
    collector.wait_statistics(clients=5)
    collector.send_signal(signal.SIGSTOP)
    senders += [collector.sender() for _ in range(5)]
    for i, sender in enumerate(senders):
        sender.send(series(f"m{i}", 1000))
    collector.send_signal(signal.SIGTERM)
    collector.send_signal(signal.SIGCONT)
    assert collector.wait() == 0
    assert database.count() == 10_000
    for sender in senders:
        sender.close()


def test_stop_reads_the_sockets_of_paused_clients(start_collector, database):
    """The buffer is full when the signal comes, but the database is well."""
    collector = start_collector(
        database,
        batch__max_bytes="64K",
        buffer__memory_limit="256K",
        buffer__spool="",
    )
    collector.wait_event("database_connected")
    blocker = database.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    count = 60_000
    with collector.sender() as sender:
        sender.send(series("m", count))  # what is too much stays in the sockets
        collector.wait_event("buffer_full")
        assert collector.statistics()["received"] < count
    collector.send_signal(signal.SIGTERM)
    collector.wait_event("stopping")
    blocker.rollback()
    blocker.close()
    assert collector.wait() == 0
    assert database.count() == count


@pytest.mark.threads
@pytest.mark.parametrize("spool", [True, False], ids=["with spool", "memory only"])
def test_stop_under_load_loses_nothing(start_collector, database, spool):
    options = {} if spool else {"buffer__spool": ""}
    collector = start_collector(
        database,
        batch__interval=0.05,
        batch__max_bytes="256K",
        buffer__memory_limit="1M",
        buffer__spool_limit="1M",
        **options,
    )

    def pump(name):
        """At most 30,000 metrics ahead of the database: what is left at the stop must go in ten seconds."""
        with collector.sender(timeout=60) as sender:
            try:
                for block in itertools.count():
                    sender.send(series(name, 1000, first=1000 * block) + wire.sync_frame(2, block))
                    if block >= 30:
                        sender.read_answer()
            except (OSError, AssertionError):
                pass  # the daemon has closed

    names = ["a", "b", "c"]
    threads = [threading.Thread(target=pump, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    collector.wait_event("batch_stored", count=3)
    assert collector.stop() == 0
    for thread in threads:
        thread.join()
    stopped = collector.stopped
    assert stopped["received"] == stopped["stored"] == database.count()
    for name in names:  # without a gap, and each once
        assert database.rows(
            "SELECT count(*) = count(DISTINCT value), count(*) = coalesce(max(value), -1) + 1"
            " FROM metrics WHERE metric_name = %s",
            name,
        ) == [(True, True)]


@pytest.mark.slow
def test_stop_without_database_and_spool_counts_the_loss(start_collector, own_cluster):
    collector = start_collector(
        own_cluster.database("postgres"), batch__interval=3600, buffer__spool=""
    )
    collector.send(series("m", 1234))
    collector.wait_statistics(buffered=1234)
    assert collector.stop() == 1
    event = collector.find("metrics_lost")[0]
    assert event["rows"] == 1234
    assert event["level"] == "error"
    assert collector.stopped["buffered"] == 1234


def test_two_signals_stop_at_once(start_collector, own_cluster):
    collector = start_collector(own_cluster.database("postgres"), buffer__spool="")
    collector.send(series("m", 10))
    collector.wait_statistics(buffered=10)
    collector.send_signal(signal.SIGTERM)
    collector.wait_event("stopping")
    assert not collector.find("stopped")
    collector.send_signal(signal.SIGTERM)
    assert collector.wait() == 1
    assert collector.find("metrics_lost")[0]["rows"] == 10


def test_stop_without_database_leaves_all_in_the_spool(start_collector, own_cluster):
    database = own_cluster.database("postgres")
    first = start_collector(database)
    first.send(series("m", 5000))
    first.wait_statistics(buffered=5000)
    assert first.stop() == 0
    assert first.stopped["buffered"] == 5000
    assert not first.find("metrics_lost")
    own_cluster.start()
    second = start_collector(database)
    event = second.wait_event("spool_recovered")
    assert event["rows"] == 5000
    assert event["batches"] >= 1
    database.wait_count(5000)
    statistics = second.wait_statistics(buffered=0)
    assert (statistics["recovered"], statistics["received"]) == (5000, 5000)
    assert second.stop() == 0


def test_two_signals_keep_the_spool(start_collector, own_cluster):
    database = own_cluster.database("postgres")
    first = start_collector(database, batch__interval=3600)
    first.send(series("m", 100))
    first.wait_statistics(buffered=100)
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGINT)
    assert first.wait() == 0
    own_cluster.start()
    start_collector(database)
    database.wait_count(100)


def test_stop_while_the_database_hangs(start_collector, database):
    """A lock keeps the batch from being stored: the spool has it, and the next start stores it."""
    first = start_collector(database)
    first.wait_event("maintenance_done")  # so that the janitor waits for nothing
    blocker = database.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    first.send(series("m", 100))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    database.wait_value(1, waiting + " AND datname = current_database()")
    assert first.stop_at_once() == 0
    assert first.stopped["buffered"] == 100
    blocker.rollback()
    blocker.close()
    start_collector(database)
    database.wait_count(100)
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == 100


# ---- SIGHUP ----


def test_reload_applies_the_interval(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, batch__interval=3600)
    collector.send(series("m", 10))
    collector.wait_statistics(buffered=10)
    collector.write_conf(batch__interval=0.1)
    event = collector.reload()
    assert event["file"] == collector.conf_path
    sqlite_store.wait_count(10)


def test_reload_applies_the_log_level(start_collector, sqlite_store, notify_socket):
    collector = start_collector(sqlite_store, env={"NOTIFY_SOCKET": notify_socket.path})
    collector.write_conf(log__level="debug")
    collector.reload()
    collector.send(frame("m", 1))
    collector.wait_event("client_disconnected", level="debug")
    notify_socket.wait("READY=1", count=2)
    collector.write_conf(log__level="warning", log__metrics=True)
    mark = notify_socket.mark()
    collector.send_signal(signal.SIGHUP)
    notify_socket.wait("READY=1", since=mark)
    # What is below warning is silent now, the answer to SIGUSR2 included.
    with collector.sender() as sender:
        sender.send(frame("", 1))
        sender.finish()
    collector.wait_event("frame_refused")
    assert not collector.find("metric_received")
    collector.write_conf(log__level="info")
    collector.reload()
    collector.send(frame("m", 2))
    collector.wait_event("metric_received", metric="m", value=2)


@pytest.mark.threads
def test_reload_moves_the_listener(start_collector, sqlite_store, tmp_path):
    collector = start_collector(sqlite_store, listen=[f"127.0.0.1:{free_port()}"])
    old_address = collector.address
    new_address = f"unix:{tmp_path}/new"
    with collector.sender() as old_client:
        old_client.send(frame("old", 1))
        sqlite_store.wait_count(1)
        mark = collector.mark()
        collector.write_conf(listen=[new_address])
        collector.reload()
        assert collector.wait_event("listening", since=mark)["address"] == new_address
        with pytest.raises(ConnectionRefusedError):
            wire.connect(old_address)
        old_client.send(frame("old", 2))  # it stays connected
        with wire.Sender(new_address) as new_client:
            new_client.send(frame("new", 1))
            sqlite_store.wait_count(3)
            assert new_client.finish() == b""
        assert old_client.sync(2) == 0


def test_reload_keeps_listeners_that_stay(start_collector, sqlite_store, tmp_path):
    collector = start_collector(sqlite_store)
    address = collector.address
    collector.write_conf(listen=["127.0.0.1:0", f"unix:{tmp_path}/more"])
    collector.reload()
    assert len(collector.addresses) == 2
    with wire.Sender(address) as sender:
        sender.send(frame("m", 1))
        sqlite_store.wait_count(1)


def test_reload_with_an_address_that_is_taken(start_collector, sqlite_store, tmp_path):
    other = start_collector(name="other")
    collector = start_collector(sqlite_store)
    collector.write_conf(listen=["127.0.0.1:0", other.address])
    collector.reload()
    assert collector.wait_event("listen_failed")["address"] == other.address
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)


def test_stop_right_after_reload(start_collector, database):
    """The new connections are not there yet."""
    collector = start_collector(database, batch__interval=3600, buffer__spool="")
    collector.wait_event("database_connected")
    collector.send(series("m", 100))
    collector.wait_statistics(buffered=100)
    collector.write_conf(database__connections=2)
    collector.send_signal(signal.SIGSTOP)
    collector.send_signal(signal.SIGHUP)
    collector.send_signal(signal.SIGTERM)
    collector.send_signal(signal.SIGCONT)
    assert collector.wait() == 0
    assert database.count() == 100


def test_reload_lets_the_old_database_finish(start_collector, cluster, database):
    """A batch that is being stored in the one must not be stored in the other, too."""
    second = cluster.create_database()
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(
        """
        CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
        CREATE TRIGGER gate AFTER INSERT ON metrics EXECUTE FUNCTION gate()
        """
    )
    holder = database.connect()
    holder.cursor().execute("SELECT pg_advisory_lock(1)")
    collector.send(series("m", 100))
    database.wait_value(
        1, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    collector.write_conf(database__uri=second.uri)
    collector.reload()
    holder.cursor().execute("SELECT pg_advisory_unlock(1)")  # within the two seconds that it has
    holder.close()
    collector.send(series("m", 100, first=100))
    second.wait_value(True, "SELECT count(*) > 0 FROM metrics")
    collector.wait_statistics(buffered=0)
    assert database.count() + second.count() == 200
    assert collector.stop() == 0
    cluster.execute(f"DROP DATABASE {second.name} WITH (FORCE)")


@pytest.mark.threads
def test_reload_moves_to_another_database(start_collector, cluster, database):
    second = cluster.create_database()
    collector = start_collector(database, batch__max_rows=500, batch__interval=0.05)
    collector.wait_event("database_connected")
    sent = 0
    with collector.sender() as sender:
        for target in (second, database, second):
            sender.send(series("m", 3000, first=sent))
            sent += 3000
            collector.write_conf(database__uri=target.uri)
            collector.reload()
        sender.send(series("m", 1000, first=sent))
        assert sender.sync(2) == 0
    sent += 1000
    stored = database.rows("SELECT value FROM metrics") + second.rows("SELECT value FROM metrics")
    assert sorted(value for (value,) in stored) == list(range(sent))
    assert second.count() >= 1000
    assert collector.stop() == 0
    cluster.execute(f"DROP DATABASE {second.name} WITH (FORCE)")


def test_reload_repairs_a_wrong_database(start_collector, own_cluster, database):
    """What was buffered for the absent one goes to the other."""
    collector = start_collector(own_cluster.database("postgres"))
    collector.send(series("m", 1000))
    collector.wait_event("database_unavailable")
    collector.write_conf(database__uri=database.uri)
    collector.reload()
    database.wait_count(1000)


def test_reload_of_a_bad_file_keeps_the_old_settings(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.write_conf("max_clients = 1\nnonsense = 1\n")
    event = collector.reload(wait="reload_failed")
    assert f"{collector.conf_path}:2: " in event["error"]
    assert event["level"] == "error"
    senders = [collector.sender() for _ in range(3)]
    for sender in senders:
        sender.send(frame("m", 1))
    sqlite_store.wait_count(3)
    for sender in senders:
        sender.close()
    assert not collector.find("reloaded")
    collector.write_conf(max_clients=1)  # a good one later on is taken
    collector.reload()
    senders = [collector.sender() for _ in range(2)]
    collector.wait_event("client_refused", reason="max_clients")
    for sender in senders:
        sender.close()


def test_reload_says_what_needs_a_restart(start_collector, sqlite_store, tmp_path):
    collector = start_collector(sqlite_store)
    collector.write_conf(buffer__spool=tmp_path / "elsewhere", batch__interval=0.3)
    event = collector.reload()
    assert event["restart_required"] == 1
    assert [e["key"] for e in collector.find("restart_required")] == ["buffer.spool"]
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)
    assert not (tmp_path / "elsewhere").exists()


def test_reload_applies_to_clients(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    with collector.sender() as sender:
        sender.send(frame("", 1) * 5 + frame("m", 1))
        sqlite_store.wait_count(1)
        collector.write_conf(max_invalid_frames=2)
        collector.reload()
        sender.send(frame("", 1) * 2)
        assert sender.read_to_end() == b""


def test_reload_of_a_file_that_hangs(start_collector, sqlite_store, shim, notify_socket):
    """Nobody waits for it but the reload; signals that come meanwhile are one more reload."""
    env = {**shim.env, "NOTIFY_SOCKET": notify_socket.path}
    collector = start_collector(sqlite_store, env=env)
    notify_socket.wait("READY=1")
    shim.on("conf-hangs")
    collector.write_conf(max_clients=7)
    mark = notify_socket.mark()
    collector.send_signal(signal.SIGHUP)
    notify_socket.wait("RELOADING=1", since=mark)
    for _ in range(3):
        collector.send_signal(signal.SIGHUP)
        collector.statistics()  # signals of a kind that wait are one
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(2) == 0
    assert not collector.find("reloaded")
    assert "READY=1" not in notify_socket.messages[mark:]
    shim.off("conf-hangs")
    collector.wait_event("reloaded", count=2)
    notify_socket.wait("RELOADING=1", since=mark, count=2)
    notify_socket.wait("READY=1", since=mark, count=2)
    assert collector.stop() == 0
    assert len(collector.find("reloaded")) == 2


def test_stop_does_not_wait_for_a_reload_that_hangs(start_collector, database, shim, notify_socket):
    collector = start_collector(
        database, batch__interval=3600, env={**shim.env, "NOTIFY_SOCKET": notify_socket.path}
    )
    collector.wait_event("database_connected")
    shim.on("conf-hangs")
    collector.send_signal(signal.SIGHUP)
    notify_socket.wait("RELOADING=1")
    collector.send(series("m", 100))
    assert collector.stop() == 0
    assert database.count() == 100
    assert collector.stopped["stored"] == 100
    assert not collector.find("reloaded")


@pytest.mark.threads
def test_many_reloads_under_load(start_collector, database):
    collector = start_collector(database, batch__interval=0.05)
    done = threading.Event()
    sent = []

    def pump():
        with collector.sender() as sender:
            while not done.is_set():
                sender.send(series("m", 100, first=100 * len(sent)))
                sent.append(sender.sync(2))

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        for i in range(10):
            before = len(sent)
            collector.write_conf(database__connections=1 + i % 3, batch__max_rows=1000 + i)
            collector.reload()
            wait_until(lambda: len(sent) > before, 30)
    finally:
        done.set()
        thread.join()
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [
        (100 * len(sent), 100 * len(sent))
    ]
