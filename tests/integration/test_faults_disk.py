"""The spool's disk is full, read-only, failing or slow, or the clock steps."""
import os
import socket
import subprocess
import threading

import pytest

from disks import shim, shim_library, small_disk  # noqa: F401 (fixtures)
from faults import Load, assert_all_there_once, settle
from wire import series


def test_full_disk_slows_senders_and_loses_nothing(start_collector, own_cluster, small_disk):
    """The database is away, the file system has 4 MB, and more than that is sent."""
    database = own_cluster.database("postgres")
    collector = start_collector(
        database,
        buffer__spool=small_disk("4m") / "spool",
        buffer__sync="never",
        buffer__memory_limit="2M",
        batch__max_bytes="256K",
    )
    data = series("filling.a.disk", 800_000)  # 25 MB: more than sockets hold
    options = {"timeout": 120, "send_buffer": 1 << 16}
    sender = threading.Thread(target=collector.send, args=(data,), kwargs=options)
    sender.start()
    try:
        collector.wait_event("buffer_full", timeout=60, disk_refuses_writes=True)
        assert sender.is_alive(), "senders are held back"
    finally:
        own_cluster.start()
        sender.join()
    collector.wait_event("buffer_drained", timeout=60)
    database.wait_count(800_000, timeout=120)
    settle(collector)
    assert collector.stop() == 0
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == 800_000
    assert collector.stopped["dropped"] == 0


def test_no_inodes_left(start_collector, own_cluster, small_disk):
    """There is room, but not for another file."""
    disk = small_disk("16m,nr_inodes=16")
    database = own_cluster.database("postgres")
    collector = start_collector(database, buffer__spool=disk / "spool", batch__max_rows=10)
    free = os.statvfs(disk).f_favail
    for i in range(free):
        (disk / f"other-{i}").touch()
    with collector.sender() as sender:
        sender.send(series("m", 30))
        said = collector.wait_event("spool_error", error="no inodes left")
        assert "df -i" in said["hint"]
        for i in range(free):
            (disk / f"other-{i}").unlink()
        assert sender.sync(1) == 0
    own_cluster.start()
    database.wait_count(30)


def test_start_on_a_full_disk_with_a_good_database(new_collector, database, small_disk):
    """Others have filled the disk: metrics go through memory, and no number is used twice."""
    disk = small_disk("6m")
    settings = dict(buffer__spool=disk / "spool", batch__interval=0.1)
    count = 0
    for full in (False, True, True):
        if full:
            fill(disk / "filling")
        collector = new_collector(database, **settings).start()
        with collector.sender() as sender:
            for _ in range(3):
                sender.send(series("m", 100, first=count))
                assert sender.sync(2) == 0
                count += 100
        assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(count, count)]
    assert not collector.find("spool_corrupt")


def flood(address, data):
    """Sends until the collector takes no more, and leaves the connection."""
    try:
        with socket.create_connection(address) as sock:
            sock.sendall(data)
    except OSError:
        pass


def test_stop_with_a_full_disk_and_no_database(new_collector, own_cluster, small_disk):
    """Whatever has been read goes into the reserve; the next start stores all of it."""
    database = own_cluster.database("postgres")
    disk = small_disk("6m")
    settings = dict(
        buffer__spool=disk / "spool", buffer__sync="always", buffer__memory_limit="64M"
    )
    collector = new_collector(database, **settings).start()
    senders = [
        threading.Thread(target=flood, args=(("127.0.0.1", collector.port), piece))
        for piece in (series(f"flood.{i}", 40_000, first=i * 40_000) for i in range(12))
    ]
    for sender in senders:  # 12 MB at once
        sender.start()
    collector.wait_event("buffer_full", timeout=60, disk_refuses_writes=True)
    collector.wait_event("database_unavailable")
    assert collector.stop() == 0
    for sender in senders:
        sender.join()
    assert not collector.find("metrics_lost")
    received = collector.stopped["received"]
    assert collector.stopped["buffered"] == received > 0
    assert not (disk / "spool" / "reserve").exists(), "it was needed"

    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    own_cluster.start()
    collector = new_collector(database, **settings).start()
    settle(collector)
    assert (disk / "spool" / "reserve").stat().st_blocks * 512 >= 2 << 20
    assert collector.stop() == 0
    assert not collector.find("spool_corrupt")
    assert database.value("SELECT count(*) FROM metrics") == received
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == received


def test_full_disk_and_a_good_database(start_collector, database, small_disk):
    """Another program fills the disk: metrics go through memory into the database."""
    disk = small_disk("1m")
    collector = start_collector(
        database, buffer__spool=disk / "spool", buffer__sync="never", batch__interval=0.1
    )
    filler = disk / "filler"
    with Load(collector.address, level=2) as load:
        load.wait_more(5)
        fill(filler)
        load.wait_more(3)
        filler.unlink()
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


def test_killed_while_the_disk_is_full(new_collector, own_cluster, small_disk):
    database = own_cluster.database("postgres")
    settings = dict(
        buffer__spool=small_disk("1m") / "spool",
        buffer__sync="always",
        batch__interval=0.1,
    )
    collector = new_collector(database, **settings).start()
    with Load(collector.address) as load:
        collector.wait_event("buffer_full", timeout=60)
        collector.kill9()
    assert load.acknowledged
    own_cluster.start()
    collector = new_collector(database, **settings).start()
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_spool_becomes_read_only(start_collector, database, shim):
    """Like a full one: metrics go through memory into the database."""
    collector = start_collector(database, env=shim.env, buffer__sync="never", batch__interval=0.1)
    with Load(collector.address, level=2) as load:
        load.wait_more(5)
        shim.on("read-only")
        failed = collector.wait_event("spool_error")
        assert failed["error"] == "Read-only file system"
        load.wait_more(2)
        shim.off("read-only")
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_spool_is_read_only_at_start(new_collector, database, small_disk):
    disk = small_disk("4m")
    (disk / "spool").mkdir(mode=0o700)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    collector = new_collector(database, buffer__spool=disk / "spool").start(wait=None)
    assert collector.wait() == 1
    assert "Read-only" in collector.find("spool_failed")[0]["error"]


@pytest.mark.parametrize("sync", ["always", "interval"])
def test_failing_sync_is_no_acknowledgement(new_collector, own_cluster, shim, sync):
    """While fdatasync fails, level 1 is not answered; once it works, everything is, and survives."""
    database = own_cluster.database("postgres")
    settings = dict(buffer__sync=sync, batch__interval=0.2, env=shim.env)
    collector = new_collector(database, **settings).start()
    with Load(collector.address) as load:
        load.wait_more(2)
        shim.on("sync-fails")
        collector.wait_event("spool_error")
        before = load.count()
        mark = collector.mark()
        collector.wait_event("database_unavailable", since=mark, count=4)  # seconds
        assert load.count() <= before + 3, "at most what was under way"
        shim.off("sync-fails")
        load.wait_more(6)
        collector.kill9()
    own_cluster.start()
    collector = new_collector(database, **settings).start()
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_failing_sync_with_a_good_database(start_collector, database, shim):
    """The database has the metrics: level 1 is answered for that."""
    collector = start_collector(database, env=shim.env, batch__interval=0.1)
    shim.on("sync-fails")
    with Load(collector.address) as load:
        load.wait_more(10)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_slow_sync_does_not_hold_the_loop(start_collector, database, shim):
    """Syncs take a quarter of a second; senders that do not ask notice nothing."""
    collector = start_collector(database, env=shim.env, buffer__sync="always", batch__interval=0.1)
    shim.on("sync-slow")
    with Load(collector.address, senders=8) as load:
        load.wait_more(16)
        collector.send(series("other", 50_000, first=10_000_000))
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_clock_steps_backwards(start_collector, database, shim):
    collector = start_collector(
        database, env=shim.env, batch__interval=0.1, buffer__keep="1 hour", buffer__sync="never"
    )
    with Load(collector.address) as load:
        for offset in (-3600, 7200, -86400 * 365, 0):
            load.wait_more(5)
            mark = collector.mark()
            shim.on("clock", str(offset))
            collector.wait_event("batch_stored", since=mark)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
