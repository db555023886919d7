"""
The crash matrix: the daemon stops itself at a named point (src/base/crash_point.h), is killed
there, and the next start goes on with the same spool.
"""
import os
import subprocess
from contextlib import closing

import pytest

import processes
from cluster import free_port
from crowds import ROWS, crowd, crowded_database, leave_locks
from faults import Load, assert_all_there_once, settle
from programs import ROOT
from waiting import wait_until
from wire import series

SPOOL = ["file_header", "block_write", "sync", "seal", "unlink"]
POINTS = {
    "postgres": [
        *(f"{side}_{step}" for step in SPOOL for side in ("before", "after")),
        *("before_ledger_insert", "after_ledger_insert", "before_copy_end", "after_copy_end"),
        "after_commit",
    ],
    "sqlite": [
        *(f"{side}_{step}" for step in SPOOL for side in ("before", "after")),
        *("before_ledger_insert", "after_ledger_insert", "before_commit", "after_commit"),
    ],
}
DIVIDED = "after_part"
AGAIN = ["after_block_write", "after_sync", "before_seal", "after_commit", "after_unlink"]
MATRIX = [
    (store, point + passage)
    for store, points in POINTS.items()
    for point in points
    for passage in ([""] if point not in AGAIN else ["", ":3"])
]


@pytest.fixture
def crash_program():
    path = os.environ.get("METRIC_COLLECTORD_CRASH_POINTS")
    if not path:
        pytest.skip(
            "skipped: METRIC_COLLECTORD_CRASH_POINTS names no daemon built with --enable-crash-points"
        )
    return path


@pytest.fixture
def start_to_crash(new_collector, crash_program):
    def start(store, point, **settings):
        env = {"METRIC_COLLECTORD_CRASH_POINT": point}
        collector = new_collector(store, env=env, **settings)
        collector.program = crash_program
        collector.expected_noise = "crash point "
        return collector.start()

    return start


def kill_at_point(collector):
    wait_until(lambda: processes.stopped(collector.pid), 60, "the daemon stops at its crash point")
    collector.kill9()


@pytest.mark.parametrize("store_name, point", MATRIX)
def test_killed_at(request, new_collector, start_to_crash, store_name, point):
    fixture = "database" if store_name == "postgres" else "sqlite_store"
    store = request.getfixturevalue(fixture)
    settings = dict(
        listen=[f"127.0.0.1:{free_port()}"],
        buffer__sync="always",
        batch__interval=0.1,
        batch__max_rows=2000,
    )
    collector = start_to_crash(store, point, **settings)
    with Load(collector.address) as load:
        kill_at_point(collector)
        collector = new_collector(store, **settings).start()
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(store, load)


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_killed_while_a_row_is_rejected(new_collector, start_to_crash, database, point):
    """Refused rows are isolated in a transaction of its own, with a commit of its own."""
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
        " value double precision NOT NULL CHECK (value <> 13))"
    )
    collector = start_to_crash(database, point, batch__interval=3600)
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(1) == 0
        collector.flush()
        kill_at_point(collector)
    collector = new_collector(database).start()
    settle(collector)
    assert collector.stop() == 0
    assert (collector.stopped["stored"], collector.stopped["rejected"]) == (99, 1)
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(99, 99)]
    assert database.rows("SELECT value FROM metric_collectord.rejected") == [(13,)]


def test_killed_between_two_parts(new_collector, start_to_crash, own_cluster):
    """A batch that is too large for the server is stored in parts, and goes on where it was."""
    database = crowded_database(own_cluster)
    collector = start_to_crash(database, DIVIDED, batch__interval=3600)
    collector.wait_event("maintenance_done")
    collector.wait_event("database_connected")
    with closing(database.connect()) as connection:
        leave_locks(connection, 300)
        with collector.sender() as sender:
            sender.send(crowd())
            assert sender.sync(1) == 0
            collector.flush()
            kill_at_point(collector)
    assert 0 < database.value("SELECT count(*) FROM metrics") < ROWS
    collector = new_collector(database).start()
    settle(collector)
    assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(ROWS, ROWS)]


@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_while_a_batch_is_kept(new_collector, start_to_crash, database, side):
    """With buffer.keep a stored batch's file gets another name, where otherwise it is removed."""
    settings = dict(batch__interval=3600, buffer__keep="1 hour")
    collector = start_to_crash(database, f"{side}_unlink", **settings)
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(1) == 0
        collector.flush()
        kill_at_point(collector)
    collector = new_collector(database, **settings).start()
    settle(collector)
    assert collector.stop() == 0
    assert not collector.find("batches_requeued")
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(100, 100)]


@pytest.mark.parametrize("point", ["before_file_header", "after_file_header"])
def test_killed_while_a_file_is_made(new_collector, start_to_crash, sqlite_store, point):
    """A kill is no damage to the disk: nothing is reported, and nothing is left."""
    collector = start_to_crash(sqlite_store, f"{point}:2", batch__interval=3600)
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(2) == 0
        sender.send(series("n", 1))
        kill_at_point(collector)
    collector = new_collector(sqlite_store).start()
    settle(collector)
    assert collector.stop() == 0
    assert not collector.find("spool_corrupt") and not collector.find("spool_torn")
    left = [name for name in os.listdir(collector.conf["buffer.spool"]) if ".batch" in name]
    assert not left and not os.path.exists(os.path.join(collector.conf["buffer.spool"], "corrupt"))


def test_every_point_has_a_run():
    """The points that the sources name, and the matrix."""
    lines = subprocess.run(
        ["grep", "-rhoE", r'crash_point\("[a-z_]+"\)', f"{ROOT}/src"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    named = {line.split('"')[1] for line in lines} - {"NAME"}
    assert named == {point for points in POINTS.values() for point in points} | {DIVIDED}
