"""Sync frames: is everything that I sent before this safe?"""
import signal
import socket
import threading

import pytest

import processes
import wire
from programs import is_sanitized
from waiting import wait_until
from wire import ANSWER, frame, series, sync_frame

both_levels = pytest.mark.parametrize("level", [1, 2])
SYNCS = ["always", "interval", "never"]


@both_levels
def test_answer(start_collector, store, level):
    collector = start_collector(store)
    token = 0xFEDCBA9876543210
    with collector.sender() as sender:
        sender.send(series("m", 10) + sync_frame(level, token))
        assert sender.read_exactly(17) == ANSWER.pack(token, 0, 0)
        if level == 2:
            assert store.count() == 10
        sender.half_close()
        assert sender.read_to_end() == b""
    assert collector.statistics()[f"syncs_level{level}"] == 1


@both_levels
def test_nothing_sent_is_safe_at_once(start_collector, own_cluster, level):
    collector = start_collector(own_cluster.database("postgres"))
    with collector.sender() as sender:
        assert sender.sync(level, 5) == 0


@both_levels
def test_refused_since_the_sync_before(start_collector, sqlite_store, level):
    collector = start_collector(sqlite_store)
    bad = frame("", 1)
    with collector.sender() as sender:
        sender.send(bad * 3 + frame("m", 1))
        assert sender.sync(level) == 3
        assert sender.sync(level) == 0
        sender.send(bad + frame("m", 1) + bad)
        assert sender.sync(level) == 2


def test_answers_come_in_order(start_collector, database):
    collector = start_collector(database)
    levels = [1, 2, 2, 1, 2, 1, 1, 2] * 8
    with collector.sender() as sender:
        for i, level in enumerate(levels):
            sender.send(series("m", 10, first=10 * i) + frame("", 0) + sync_frame(level, i))
        assert [sender.read_answer() for _ in levels] == [(i, 1) for i in range(len(levels))]
    assert database.count() == 10 * len(levels)


@both_levels
def test_answered_after_half_close(start_collector, store, level):
    collector = start_collector(store)
    with collector.sender() as sender:
        sender.send(series("m", 1000) + sync_frame(level, 1) + frame("m", 0) + sync_frame(level, 2))
        assert sender.finish() == ANSWER.pack(1, 0, 0) + ANSWER.pack(2, 0, 0)
    store.wait_count(1001)


def test_level_2_does_not_wait_for_the_timer(start_collector, store):
    collector = start_collector(store, batch__interval=3600)
    with collector.sender() as sender:
        for i in range(5):
            sender.send(series("m", 100, first=100 * i))
            assert sender.sync(2, i) == 0
            assert store.count() == 100 * (i + 1)


def test_level_2_covers_other_senders_nothing(start_collector, database):
    """A question is about the connection's own metrics; the flush takes all along."""
    collector = start_collector(database, batch__interval=3600)
    collector.send(series("other", 100))
    with collector.sender() as sender:
        sender.send(frame("m", 1))
        assert sender.sync(2) == 0
    assert database.count() == 101


@both_levels
def test_level_without_spool_waits_for_the_database(start_collector, own_cluster, level):
    """Without a spool, level 1 is level 2."""
    database = own_cluster.database("postgres")
    collector = start_collector(database, buffer__spool="")
    with collector.sender(timeout=60) as sender:
        sender.send(series("m", 100) + sync_frame(level, 9))
        collector.wait_statistics(buffered=100)
        collector.wait_event("database_unavailable")
        sender.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sender.sock.recv(1)
        sender.sock.settimeout(60)
        own_cluster.start()
        assert sender.read_answer() == (9, 0)
        assert database.count() == 100


@pytest.mark.parametrize("sync", SYNCS)
def test_level_1_survives_kill_9(start_collector, own_cluster, sync):
    """Answered with the database away; the next start stores what was answered."""
    database = own_cluster.database("postgres")
    first = start_collector(database, buffer__sync=sync, batch__interval=3600)
    with first.sender() as sender:
        for i in range(3):
            sender.send(series("m", 1000, first=1000 * i))
            assert sender.sync(1, i) == 0
        first.kill9()
    own_cluster.start()
    second = start_collector(database, buffer__sync=sync)
    assert second.wait_event("spool_recovered")["rows"] == 3000
    database.wait_count(3000)
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == 3000


def test_level_1_while_level_2_waits(start_collector, own_cluster):
    """On one connection answers keep their order, between connections nobody waits."""
    database = own_cluster.database("postgres")
    collector = start_collector(database)
    with collector.sender(timeout=60) as patient, collector.sender() as quick:
        patient.send(frame("m", 1) + sync_frame(2, 1) + frame("m", 2) + sync_frame(1, 2))
        quick.send(frame("m", 3))
        assert quick.sync(1) == 0
        patient.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            patient.sock.recv(1)
        patient.sock.settimeout(60)
        own_cluster.start()
        assert [patient.read_answer() for _ in range(2)] == [(1, 0), (2, 0)]


@pytest.mark.threads
def test_many_clients_share_flushes(start_collector, database):
    """While one batch is being stored, those who ask meanwhile share the next."""
    clients = 100
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    blocker = database.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    senders = [collector.sender(timeout=60) for _ in range(clients)]
    for i, sender in enumerate(senders):
        sender.send(frame("m", i) + sync_frame(2, i))
    collector.wait_statistics(received=clients)
    blocker.rollback()
    blocker.close()
    for i, sender in enumerate(senders):
        assert sender.read_answer() == (i, 0)
        sender.close()
    assert database.count() == clients
    assert database.count(database.ledger) <= 5
    assert collector.statistics()["syncs_level2"] == clients


@pytest.mark.threads
@both_levels
def test_many_clients_at_once(start_collector, database, level):
    clients, rounds = 20, 10
    collector = start_collector(database, buffer__sync="always")
    errors = []

    def ask(number):
        try:
            with collector.sender() as sender:
                for i in range(rounds):
                    sender.send(series(f"m{number}", 20, first=20 * i))
                    assert sender.sync(level, number * rounds + i) == 0
        except (AssertionError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    if level == 2:
        assert database.count() == clients * rounds * 20
    database.wait_count(clients * rounds * 20)


def test_unread_answers_are_limited(start_collector, sqlite_store):
    """Who does not take answers is not read any more; others notice nothing."""
    count = 100_000
    collector = start_collector(sqlite_store)
    with collector.sender(receive_buffer=4096, timeout=60) as greedy:
        before = processes.rss_bytes(collector.pid)
        data = b"".join(sync_frame(1, i) for i in range(count))
        thread = threading.Thread(target=greedy.sock.sendall, args=(data,))
        thread.start()
        with collector.sender() as other:
            other.send(frame("m", 1))
            assert other.sync(2) == 0
        growth = processes.rss_bytes(collector.pid) - before
        answers = greedy.read_exactly(count * ANSWER.size)
        thread.join()
        greedy.half_close()
        assert greedy.read_to_end() == b""
    for i, answer in enumerate(ANSWER.iter_unpack(answers)):
        assert answer == (i, 0, 0)
    if not is_sanitized():
        assert growth < 4 << 20


def test_waiting_questions_are_limited(start_collector, own_cluster):
    """With the database away a connection gets no further than so many open questions."""
    count = 2000
    database = own_cluster.database("postgres")
    collector = start_collector(database)
    with collector.sender(timeout=60) as sender:
        sender.send(b"".join(frame("m", i) + sync_frame(2, i) for i in range(count)))
        collector.wait_event("database_unavailable")
        assert 0 < collector.wait_statistics(received=lambda n: n > 0)["received"] < count
        own_cluster.start()
        assert [sender.read_answer() for _ in range(count)] == [(i, 0) for i in range(count)]
    assert database.count() == count


def test_asking_and_leaving(start_collector, own_cluster):
    """Nobody is there to take the answer."""
    database = own_cluster.database("postgres")
    collector = start_collector(database)
    for i in range(50):
        with collector.sender() as sender:
            sender.send(frame("m", i) + sync_frame(2, i))
            if i % 2:
                sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
    collector.wait_statistics(received=lambda n: n >= 25)
    own_cluster.start()
    collector.wait_statistics(clients=0, buffered=0, timeout=60)
    assert collector.stop() == 0


def test_stop_answers_first(start_collector, database):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    senders = [collector.sender() for _ in range(5)]
    collector.wait_statistics(clients=5)
    collector.send_signal(signal.SIGSTOP)
    for i, sender in enumerate(senders):
        sender.send(series("m", 100, first=100 * i) + sync_frame(1 + i % 2, i))
    collector.send_signal(signal.SIGTERM)
    collector.send_signal(signal.SIGCONT)
    for i, sender in enumerate(senders):
        assert sender.read_to_end() == ANSWER.pack(i, 0, 0)
        sender.close()
    assert collector.wait() == 0
    assert database.count() == 500


def test_senders_that_never_ask_get_no_byte(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    with collector.sender() as sender:
        sender.send(series("m", 1000) + frame("", 1) * 50)
        sqlite_store.wait_count(1000)
        assert sender.finish() == b""


def test_tokens_are_any_eight_bytes(start_collector, sqlite_store):
    """Past the year 9999, too: the field of a sync frame is no time."""
    collector = start_collector(sqlite_store)
    tokens = [0, 1, wire.TIME_MAX + 1, 2**63, 2**64 - 1]
    with collector.sender() as sender:
        for token in tokens:
            assert sender.sync(1, token) == 0
    wait_until(lambda: collector.statistics()["syncs_level1"] == len(tokens))
