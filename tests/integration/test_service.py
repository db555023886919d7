"""What a supervisor sees: sd_notify(3) and socket activation."""
import os
import shutil
import socket
import sys

import pytest

import wire
from cluster import free_port
from wire import frame, series


def test_ready_although_the_database_is_down(start_collector, own_cluster, notify_socket):
    collector = start_collector(
        own_cluster.database("postgres"), env={"NOTIFY_SOCKET": notify_socket.path}
    )
    notify_socket.wait("READY=1")
    notify_socket.wait_status("database unavailable")
    collector.send(frame("m", 1))


def test_life_of_a_service(start_collector, database, notify_socket):
    collector = start_collector(database, env={"NOTIFY_SOCKET": notify_socket.path})
    notify_socket.wait("READY=1")
    mark = notify_socket.mark()
    collector.reload()
    assert int(notify_socket.wait("MONOTONIC_USEC=", since=mark).partition("=")[2]) > 0
    notify_socket.wait("RELOADING=1", since=mark)
    notify_socket.wait("READY=1", since=mark)
    assert collector.stop() == 0
    notify_socket.wait("STOPPING=1", since=mark)


def test_a_failed_reload_ends_in_ready(start_collector, sqlite_store, notify_socket):
    collector = start_collector(sqlite_store, env={"NOTIFY_SOCKET": notify_socket.path})
    notify_socket.wait("READY=1")
    mark = notify_socket.mark()
    collector.write_conf("nonsense = 1\n")
    collector.reload(wait="reload_failed")
    notify_socket.wait("READY=1", since=mark)


def test_status_line(start_collector, database, notify_socket):
    collector = start_collector(database, env={"NOTIFY_SOCKET": notify_socket.path})
    collector.wait_event("database_connected")
    notify_socket.wait_status("receiving 0 metrics/s from 0 clients; database ok; 0 batches waiting")
    with collector.sender() as sender:
        sender.send(series("m", 1234))  # few enough to be read at once, and so in one second
        notify_socket.wait_status("from 1 clients")
        notify_socket.wait_status("receiving 1,234 metrics/s")


def test_batches_wait_in_the_status_line(start_collector, own_cluster, notify_socket):
    collector = start_collector(
        own_cluster.database("postgres"),
        batch__max_rows=100,
        batch__interval=3600,
        env={"NOTIFY_SOCKET": notify_socket.path},
    )
    collector.send(series("m", 1001))  # the last one ends the tenth batch
    notify_socket.wait_status("; 10 batches waiting")
    assert collector.statistics()["batches_waiting"] == 10


def test_watchdog(start_collector, sqlite_store, notify_socket):
    launcher = ["/bin/sh", "-c", 'WATCHDOG_PID=$$ exec "$0" "$@"']
    env = {"NOTIFY_SOCKET": notify_socket.path, "WATCHDOG_USEC": "200000"}
    start_collector(sqlite_store, launcher=launcher, env=env)
    notify_socket.wait("WATCHDOG=1", count=5)


def test_no_watchdog_unless_asked(start_collector, sqlite_store, notify_socket):
    """Somebody else's, by its process id."""
    env = {
        "NOTIFY_SOCKET": notify_socket.path,
        "WATCHDOG_USEC": "20000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    collector = start_collector(sqlite_store, env=env)
    notify_socket.wait_status("receiving")
    collector.send(series("m", 10))
    sqlite_store.wait_count(10)
    collector.stop()
    assert "WATCHDOG=1" not in notify_socket.messages


def test_systemd_socket_activate(new_collector, database):
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("skipped: systemd-socket-activate is not installed")
    address = f"127.0.0.1:{free_port()}"
    launcher = ["systemd-socket-activate", "-l", address, "--fdname=metrics"]
    collector = new_collector(database, launcher=launcher, listen=["127.0.0.1:1"])
    collector.expected_noise = r"(Listening on|Communication attempt on|Execing) .*"
    collector.start(wait=None)
    collector.wait_noise("Listening on")
    with wire.Sender(address) as sender:
        sender.send(series("m", 100))
        event = collector.wait_event("listening")
        assert (event["address"], event["name"]) == (address, "metrics")
        collector.wait_event("ready")
        assert sender.finish() == b""
    database.wait_count(100)
    assert collector.addresses == [address]  # the setting is ignored
    assert len(collector.find("listen_ignored")) == 1
    assert collector.stop() == 0


# Does what systemd does: descriptors from 3 on, LISTEN_PID and names.
ACTIVATE = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
copies = [os.dup(fd) for fd in fds]
for i, fd in enumerate(copies):
    os.dup2(fd, 100 + i)
for i in range(len(copies)):
    os.dup2(100 + i, 3 + i, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.closerange(3 + len(fds), 200)
os.execv(sys.argv[3], sys.argv[3:])
"""


def activated(new_collector, store, sockets, names, **settings):
    fds = [sock.fileno() for sock in sockets]
    launcher = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), names]
    return new_collector(store, launcher=launcher, pass_fds=fds, **settings).start()


def test_several_sockets_with_names(new_collector, sqlite_store, tmp_path):
    path = str(tmp_path / "activated.sock")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        for sock in (tcp, unix):
            sock.listen()
        tcp_address = "127.0.0.1:%d" % tcp.getsockname()[1]
        collector = activated(new_collector, sqlite_store, [tcp, unix], "one:two")
    assert {e["address"]: e["name"] for e in collector.find("listening")} == {
        tcp_address: "one",
        f"unix:{path}": "two",
    }
    for address in collector.addresses:
        with wire.Sender(address) as sender:
            sender.send(frame("m", 1))
            assert sender.finish() == b""
    sqlite_store.wait_count(2)
    collector.write_conf(listen=["127.0.0.1:0"])
    collector.reload()  # the setting stays without effect
    assert len(collector.addresses) == 2
    assert "socket unit" in collector.find("listen_ignored")[-1]["hint"]
    assert collector.stop() == 0
    assert os.path.exists(path)  # it is the supervisor's


def test_connections_that_wait_at_stop_are_for_the_next_start(new_collector, database):
    """The socket outlives the daemon: senders notice nothing of a restart."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(50)
        address = "127.0.0.1:%d" % sock.getsockname()[1]
        first = activated(new_collector, database, [sock], "x", batch__interval=3600)
        with wire.Sender(address) as sender:
            sender.send(series("m", 10))
            assert sender.finish() == b""
        assert first.stop() == 0
        with wire.Sender(address) as sender:
            sender.send(series("m", 10, first=10))
            second = activated(new_collector, database, [sock], "x")
            assert sender.sync(2) == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(20, 20)]
    assert second.stop() == 0


def test_a_socket_that_is_none(new_collector, sqlite_store):
    reader, writer = os.pipe()
    launcher = [sys.executable, "-c", ACTIVATE, str(reader), "pipe"]
    collector = new_collector(sqlite_store, launcher=launcher, pass_fds=[reader])
    collector.start(wait="listen_failed")
    assert collector.wait() == 1
    os.close(reader)
    os.close(writer)
