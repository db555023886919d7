"""Places for clients: who waits for one while the buffer is full, and who gives one up."""
import os
import socket
import struct

import pytest

from waiting import seconds, wait_until
from wire import frame, series

CLIENTS = 5
FULL = {
    "max_clients": CLIENTS,
    "buffer__memory_limit": "64K",
    "batch__max_bytes": "16K",
    "buffer__spool": "",
}


def fill(collector, sender):
    """Sends until nobody is read any more."""
    sender.sock.settimeout(0.2)
    data, sent = series("m", 20_000), 0
    while not collector.find("buffer_full") or sent == 0:
        try:
            sent += sender.sock.send(data)
        except TimeoutError:
            pass
    sender.sock.settimeout(seconds(30))


def reset(sender):
    sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sender.close()


def wait_stored(cluster, name, count):
    sql = f"SELECT count(*) FROM metrics WHERE metric_name = '{name}'"
    cluster.database("postgres").wait_value(count, sql, timeout=60)


@pytest.fixture
def full(start_collector, own_cluster):
    """A collector whose buffer is full, and one connection that has filled it."""
    collector = start_collector(own_cluster.database("postgres"), **FULL)
    with collector.sender() as sender:
        fill(collector, sender)
        yield collector
    collector.stop_at_once()


def test_who_finds_no_place_waits_while_the_buffer_is_full(full, own_cluster):
    senders = [full.sender() for _ in range(CLIENTS - 1 + 4)]
    full.wait_event("accept_paused")
    for i, sender in enumerate(senders):
        sender.send(frame("waiting", i))
    statistics = full.wait_statistics(clients=CLIENTS)
    assert statistics["clients_refused"] == 0
    own_cluster.start()
    for sender in senders:
        assert sender.finish() == b""
        sender.close()
    assert full.statistics()["clients_refused"] == 0
    wait_stored(own_cluster, "waiting", len(senders))


def test_who_has_waited_long_enough_is_closed(full, own_cluster):
    """As whoever comes while there is room."""
    senders = [full.sender() for _ in range(CLIENTS - 1)]
    with full.sender() as waiting:
        full.wait_event("accept_paused")
        full.write_conf(buffer__overflow="drop_newest")
        full.reload()
        assert waiting.read_to_end() == b""
    assert full.wait_event("client_refused")["reason"] == "max_clients"
    for sender in senders:
        sender.close()


def test_a_place_that_is_given_up_goes_to_who_waits(full):
    senders = [full.sender() for _ in range(CLIENTS - 1)]
    full.wait_statistics(clients=CLIENTS)
    waiting = full.sender()
    reset(senders[0])
    full.wait_statistics(clients=CLIENTS, clients_total=CLIENTS + 1, clients_refused=0)
    for sender in [waiting, *senders[1:]]:
        sender.close()
    full.wait_statistics(clients=1)


def test_resets_while_the_buffer_is_full_leave_no_trace(full):
    for i in range(50):
        sender = full.sender()
        sender.send(frame("gone", i))
        reset(sender)
    full.wait_statistics(clients=1, clients_refused=0)


def test_what_was_sent_before_a_close_is_stored(full, own_cluster):
    for i in range(CLIENTS - 1):
        with full.sender() as sender:
            sender.send(frame("left", i))
    own_cluster.start()
    wait_stored(own_cluster, "left", CLIENTS - 1)


def test_half_a_frame_at_a_timeout_is_counted(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, client_timeout=1)
    with collector.sender() as sender:
        sender.send(frame("m", 1)[:9])
        assert sender.read_to_end() == b""
    collector.wait_event("frame_refused", reason="truncated_frame", frame=frame("m", 1)[:9].hex())
    assert collector.statistics()["truncated_frames"] == 1


def test_a_peer_that_hangs_up_is_missed_within_minutes(start_collector, sqlite_store):
    """The kernel's table of connections knows each one's timer."""
    collector = start_collector(sqlite_store)
    with collector.sender() as sender:
        collector.wait_statistics(clients=1)
        remote = sender.sock.getsockname()[1]

        def timer():
            with open("/proc/net/tcp", encoding="ascii") as file:
                for line in file:
                    fields = line.split()
                    if fields[1].endswith(f":{collector.port:04X}") and fields[2].endswith(
                        f":{remote:04X}"
                    ):
                        kind, _, left = fields[5].partition(":")
                        return kind == "02" and int(left, 16) / 100
            return None

        assert 0 < wait_until(timer) <= 60


@pytest.fixture
def few_descriptors():
    """A launcher under whose limit a process stays, whoever runs it."""
    limit = ["prlimit", "--nofile=100:100"]
    return [*limit, "setpriv", "--bounding-set=-sys_resource"] if os.geteuid() == 0 else limit


def test_clients_leave_descriptors_alone_that_others_need(
    start_collector, own_cluster, few_descriptors
):
    """The spool is written, and the database connected, while all places are taken."""
    database = own_cluster.database("postgres")
    collector = start_collector(database, launcher=few_descriptors, max_clients=1000)
    event = collector.wait_event("descriptor_limit")
    assert event["available"] == 100
    assert 10 <= event["max_clients"] <= 60
    senders = [collector.sender() for _ in range(event["max_clients"])]
    for sender in senders:
        sender.send(frame("m", 1))
    collector.wait_statistics(received=len(senders), clients=len(senders))
    with collector.sender() as surplus:
        assert surplus.read_to_end() == b""
    assert collector.wait_event("client_refused")["reason"] == "max_clients"
    assert senders[0].sync(1) == 0
    own_cluster.start()
    database.wait_count(len(senders))
    collector.reload()
    assert len(collector.find("descriptor_limit")) == 1
    assert not collector.find("accept_paused")
    collector.write_conf(max_clients=5)
    collector.reload()
    assert len(collector.find("descriptor_limit")) == 1
    for sender in senders:
        sender.close()
