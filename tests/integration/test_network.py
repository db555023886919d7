"""Listeners and clients."""
import os
import resource
import socket

import pytest

import processes
import wire
from programs import is_sanitized
from waiting import wait_until
from wire import frame, series


def test_several_addresses(start_collector, sqlite_store, tmp_path):
    path = f"{tmp_path}/collector.sock"
    collector = start_collector(
        sqlite_store, listen=["127.0.0.1:0", "127.0.0.2:0", f"unix:{path}", f"unix:@{path}"]
    )
    assert len(collector.addresses) == 4
    for address in collector.addresses:
        with wire.Sender(address) as sender:
            sender.send(frame("m", 1))
            assert sender.finish() == b""
    sqlite_store.wait_count(4)
    assert collector.stop() == 0
    assert not os.path.exists(path)


def test_ipv6(start_collector, sqlite_store):
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("skipped: no IPv6 here")
    collector = start_collector(sqlite_store, listen=["[::1]:0"], log__level="debug")
    assert collector.address.startswith("[::1]:")
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)
    assert collector.wait_event("client_connected")["client"].startswith("[::1]:")


def test_ipv6_wildcard_takes_ipv4_or_leaves_room_for_it(start_collector, sqlite_store):
    """Both wildcards together are a usual configuration."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("skipped: no IPv6 here")
    collector = start_collector(sqlite_store, listen=["127.0.0.1:0", "[::]:0"])
    port = collector.addresses[1].rpartition(":")[2]
    with wire.Sender(f"[::1]:{port}") as sender:
        sender.send(frame("m", 1))
        assert sender.finish() == b""
    sqlite_store.wait_count(1)


def test_stale_unix_socket_is_replaced(new_collector, sqlite_store, tmp_path):
    address = f"unix:{tmp_path}/collector.sock"
    first = new_collector(sqlite_store, name="first", listen=[address]).start()
    assert first.kill9() == -9
    second = new_collector(sqlite_store, name="second", listen=[address]).start()
    second.send(frame("m", 1))
    sqlite_store.wait_count(1)
    third = new_collector(sqlite_store, name="third", listen=[address])
    third.start(wait="listen_failed")  # it is in use, and stays with its owner
    assert third.wait() == 1
    second.send(frame("m", 2))
    sqlite_store.wait_count(2)


def test_events_of_a_client(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, log__level="debug")
    with collector.sender() as sender:
        name = "127.0.0.1:%d" % sender.sock.getsockname()[1]
        assert collector.wait_event("client_connected")["client"] == name
        sender.send(frame("m", 1) + frame("", 1) + frame("m", 2))
        sender.finish()
    event = collector.wait_event("client_disconnected")
    assert event["client"] == name
    assert (event["frames"], event["refused"], event["reason"]) == (2, 1, "eof")
    assert event["level"] == "debug"


def test_a_reset_is_just_an_end(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    with collector.sender() as sender:
        sender.send(frame("m", 1))
        sqlite_store.wait_count(1)
        linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
        sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    collector.wait_statistics(clients=0)
    collector.send(frame("m", 2))
    sqlite_store.wait_count(2)


def test_max_clients(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, max_clients=3)
    senders = [collector.sender() for _ in range(3)]
    collector.wait_statistics(clients=3)
    with collector.sender() as surplus:
        assert surplus.read_to_end() == b""
    assert collector.wait_event("client_refused")["reason"] == "max_clients"
    senders.pop().close()
    collector.wait_statistics(clients=2, clients_refused=1)
    senders.append(collector.sender())
    for sender in senders:
        sender.send(frame("m", 1))
    sqlite_store.wait_count(3)
    for sender in senders:
        sender.close()


def test_client_timeout(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, client_timeout=1, log__level="debug")
    with collector.sender() as silent:
        assert silent.read_to_end() == b""
    collector.wait_event("client_disconnected", reason="timeout")
    collector.wait_statistics(clients=0, clients_timed_out=1)


def test_allow(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, allow=["127.0.0.2", "10.0.0.0/8"])
    with collector.sender() as stranger:
        assert stranger.read_to_end() == b""
    event = collector.wait_event("client_refused")
    assert event["reason"] == "not_allowed"
    assert event["client"].startswith("127.0.0.1:")
    with socket.socket() as friend:
        friend.bind(("127.0.0.2", 0))
        friend.connect(("127.0.0.1", collector.port))
        friend.sendall(frame("m", 1))
        sqlite_store.wait_count(1)
    assert collector.statistics()["clients_refused"] == 1


def test_allow_does_not_bar_unix_sockets(start_collector, sqlite_store, tmp_path):
    collector = start_collector(sqlite_store, listen=[f"unix:{tmp_path}/s"], allow=["10.0.0.0/8"])
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)


def test_thousands_of_idle_clients(start_collector, sqlite_store, descriptor_limit):
    count = min(10_000, descriptor_limit - 500)
    if is_sanitized():
        count = min(count, 1000)
    collector = start_collector(sqlite_store, max_clients=count + 10)
    senders = [collector.sender()]
    collector.wait_statistics(clients=1)
    before = processes.rss_bytes(collector.pid)
    try:
        senders += [collector.sender() for _ in range(count - 1)]
        collector.wait_statistics(clients=count, timeout=60)
        growth = processes.rss_bytes(collector.pid) - before
        for sender in senders[:: count // 100]:
            sender.send(frame("m", 1)[:9])  # the others stay idle
        for sender in senders[:: count // 100]:
            sender.send(frame("m", 1)[9:])
        sqlite_store.wait_count(len(senders[:: count // 100]))
    finally:
        for sender in senders:
            sender.close()
    collector.wait_statistics(clients=0, clients_refused=0, timeout=60)
    if not is_sanitized():
        assert growth < 1024 * count, f"{growth / count:.0f} bytes for each client"


@pytest.mark.slow
def test_out_of_descriptors(start_collector, sqlite_store):
    """Accepting pauses; those that wait are served as soon as others leave."""
    collector = start_collector(sqlite_store)
    collector.wait_event("maintenance_done")
    collector.send(frame("m", 0))
    sqlite_store.wait_count(1)  # the writer and the disk thread have what they need
    limit = processes.descriptors(collector.pid) + 10
    resource.prlimit(collector.pid, resource.RLIMIT_NOFILE, (limit, limit))
    senders = [collector.sender() for _ in range(30)]
    event = collector.wait_event("accept_paused")
    assert "files" in event["error"]
    for sender in senders:
        sender.send(frame("m", 1))
    for sender in senders:  # one after the other makes room
        sender.half_close()
        assert sender.read_to_end() == b""
        sender.close()
    collector.wait_statistics(received=31, clients=0)
    assert collector.stop() == 0
    assert collector.stopped["received"] == 31


def test_clients_that_come_and_go(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    for i in range(300):
        with collector.sender() as sender:
            sender.send(frame("m", i))
    sqlite_store.wait_count(300)
    collector.wait_statistics(clients=0, clients_total=300)


def test_a_slow_client_does_not_hold_others_up(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    with collector.sender() as slow:
        slow.send(frame("slow", 1)[:-1])
        collector.send(series("m", 1000))
        sqlite_store.wait_count(1000)
        slow.send(frame("slow", 1)[-1:])
        sqlite_store.wait_count(1001)


def test_descriptors_are_given_back(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)
    collector.wait_statistics(clients=0)
    before = processes.descriptors(collector.pid)
    for i in range(50):
        collector.send(frame("m", i))
    collector.wait_statistics(clients=0, buffered=0)
    wait_until(lambda: processes.descriptors(collector.pid) <= before)
