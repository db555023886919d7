"""A spool that cannot be used, or not by this daemon: others' files, a copy of another's, no files."""
import os
import pathlib
import pwd
import select
import shutil
import subprocess

import pytest

import spoolfile
from backlogs import BLOCK_ROWS, ROWS, backlog, nowhere  # noqa: F401 (a fixture)
from disks import shim, shim_library  # noqa: F401 (fixtures)
from faults import settle
from programs import metric_spool_path
from waiting import seconds, wait_until
from wire import series, sync_frame

ALL = range(ROWS + 2 * BLOCK_ROWS)  # of backlog(1)


def metric_spool(directory, *args):
    return subprocess.run(
        [metric_spool_path(), "-d", str(directory), *args],
        capture_output=True,
        text=True,
        timeout=seconds(60),
    )


def stored(store):
    return sorted(int(v) for (v,) in store.rows("SELECT value FROM metrics"))


# ---- permissions ----


@pytest.fixture
def nobody(tmp_path):
    """Runs the daemon as somebody else than root, who owns its directories."""
    if os.geteuid() != 0:
        pytest.skip("skipped: only root can become somebody else")
    if not shutil.which("setpriv"):
        pytest.skip("skipped: no setpriv")
    owner = pwd.getpwnam("nobody")
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.is_relative_to("/tmp") and str(parent) != "/tmp":
            parent.chmod(parent.stat().st_mode | 0o111)

    def own(directory):
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)

    own.launcher = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return own


def as_nobody(nobody, new_collector, store=None, **conf):
    collector = new_collector(store, launcher=nobody.launcher, **conf)
    nobody(pathlib.Path(collector.directory))
    return collector


@pytest.mark.parametrize("name", ["batch", "identity", "sequence"])
def test_a_file_of_root_refuses_the_start(nobody, new_collector, backlog, name):
    directory, files = backlog(1)
    path = files[0] if name == "batch" else directory / name
    collector = as_nobody(nobody, new_collector)
    before = spoolfile.snapshot(directory)
    os.chown(path, 0, 0)
    path.chmod(0o600)
    collector.start(wait=None)
    assert collector.wait() == 1
    said = collector.find("spool_failed")[0]["error"]
    assert f"{path} belongs to user root" in said
    assert f"'chown -R nobody: {directory}'" in said
    assert not collector.find("spool_corrupt")
    assert spoolfile.snapshot(directory) == before

    subprocess.run(["chown", "-R", "nobody:", str(directory)], check=True)
    again = as_nobody(nobody, new_collector)
    again.start()
    settle(again)
    assert again.stop() == 0
    assert not again.find("spool_corrupt")


def test_a_file_that_is_taken_away_is_tried_again(nobody, new_collector, backlog, sqlite_store):
    """The daemon runs meanwhile; two batches are read ahead, and the last is not among them."""
    directory, files = backlog(3)
    collector = as_nobody(nobody, new_collector, sqlite_store, database__uri=nowhere())
    collector.start()
    os.chown(files[-1], 0, 0)
    files[-1].chmod(0o600)
    os.chmod(pathlib.Path(sqlite_store.path).parent, 0o777)
    collector.write_conf(database__uri=sqlite_store.uri)
    collector.reload()
    failed = collector.wait_event("spool_read_failed")
    assert failed["batch"] == spoolfile.number(files[-1])
    assert "stays where it is" in failed["hint"]
    assert not (directory / "corrupt").exists()
    nobody(directory)
    settle(collector)
    assert collector.stop() == 0
    assert stored(sqlite_store) == list(range(3 * ROWS + 2 * BLOCK_ROWS))


def test_a_directory_that_cannot_be_written_refuses_the_start(nobody, new_collector, backlog):
    directory, _ = backlog(1)
    collector = as_nobody(nobody, new_collector)
    os.chown(directory, 0, 0)
    directory.chmod(0o755)
    collector.start(wait=None)
    assert collector.wait() == 1
    said = collector.find("spool_failed")[0]["error"]
    assert f"{directory} belongs to user root" in said and "cannot be written" in said
    assert not collector.find("ready")


def test_a_disk_that_does_not_read_is_tried_again(new_collector, backlog, sqlite_store, shim):
    directory, files = backlog(1)
    shim.on("read-fails")
    collector = new_collector(sqlite_store, env=shim.env)
    collector.start()
    left = collector.wait_event("spool_error")
    assert "stays where it is" in left["hint"]
    assert not (directory / "corrupt").exists()
    assert collector.stop() == 0
    assert spoolfile.batches(directory)[:2] == files
    shim.off("read-fails")
    again = new_collector(sqlite_store, env=shim.env).start()
    settle(again)
    assert again.stop() == 0
    assert stored(sqlite_store) == list(ALL)


# ---- a copy ----


def clone(new_collector, store, one):
    """A collector on a copy of the other's spool, as the image of a machine has it."""
    two = new_collector(store, name="copy")
    shutil.copytree(one.conf["buffer.spool"], two.conf["buffer.spool"])
    return two


def test_a_cloned_spool_is_a_conflict(new_collector, store):
    """What the copy sends looks like what the ledger holds: it is neither counted nor lost."""
    one = new_collector(store).start()
    one.send(series("m", 10))
    settle(one)
    assert one.stop() == 0
    two = clone(new_collector, store, one)
    one = new_collector(store).start()
    one.send(series("m", 10, first=100))
    settle(one)
    held = one.find("batch_stored")[-1]["batch"]

    two.start()
    with two.sender() as sender:
        sender.send(series("m", 10, first=100))  # the same, by chance
        assert sender.sync(1) == 0
        sender.send(sync_frame(2))
        conflict = two.wait_event("ledger_conflict")
        assert not select.select([sender.sock], [], [], 0)[0]  # no answer
    assert conflict["batch"] == held
    assert conflict["level"] == "error"
    assert "metric-spool new-identity" in conflict["hint"]
    assert two.statistics()["stored"] == 0
    assert two.statistics()["buffered"] == 10
    assert stored(store) == [*range(10), *range(100, 110)]
    two.kill9()

    result = metric_spool(two.conf["buffer.spool"], "new-identity")
    assert (result.returncode, result.stderr) == (0, "")
    again = new_collector(store, name="copy").start()
    assert again.wait_event("ready")["collector"] != one.wait_event("ready")["collector"]
    settle(again)
    again.send(series("m", 10, first=200))
    settle(again)
    assert again.stop() == 0
    assert not again.find("ledger_conflict")
    one.send(series("m", 10, first=300))
    settle(one)
    assert one.stop() == 0
    twice = [*range(100, 110)] * 2
    assert stored(store) == sorted([*range(10), *twice, *range(200, 210), *range(300, 310)])


def test_what_waited_when_the_spool_was_copied_is_stored_once(new_collector, backlog, store):
    directory, _ = backlog(1)
    one = new_collector(store)
    two = clone(new_collector, store, one)
    result = metric_spool(two.conf["buffer.spool"], "new-identity")
    assert result.returncode == 0
    for collector in (one, two):
        collector.start()
        settle(collector)
        assert collector.stop() == 0
        assert not collector.find("ledger_conflict")
    assert stored(store) == list(ALL)


def test_new_identity_while_the_daemon_runs(start_collector):
    collector = start_collector()
    result = metric_spool(collector.conf["buffer.spool"], "new-identity")
    assert result.returncode == 1
    assert "stop the daemon first" in result.stderr
    assert collector.stop() == 0


# ---- what lies in corrupt/ ----


def test_repair_brings_back_what_is_whole(new_collector, backlog, sqlite_store):
    directory, files = backlog(2)
    corrupt = directory / "corrupt"
    corrupt.mkdir()
    back = [files[0].name, files[2].name]  # sealed, and as a kill left it
    spoolfile.flip(files[1], 150)
    names = [files[0].name, files[1].name + "-1", files[2].name]
    for path, name in zip(files, names):
        path.rename(corrupt / name)
    shutil.copy(corrupt / names[0], corrupt / spoolfile.name(999))  # of another number
    (corrupt / f"{files[0].name}.112").write_bytes(b"a stretch")
    os.mkfifo(corrupt / spoolfile.name(998))
    result = metric_spool(directory, "repair")
    assert (result.returncode, result.stderr) == (1, "")
    plan = [line.partition(":")[0] for line in result.stdout.splitlines() if "bring it back" in line]
    assert plan == [f"corrupt/{name}" for name in back]
    result = metric_spool(directory, "repair", "--apply")
    assert result.returncode == 0, result
    assert [p.name for p in spoolfile.batches(directory)] == back
    assert len(list(corrupt.iterdir())) == 4
    assert metric_spool(directory, "repair").stdout == f"{directory}: nothing to repair\n"
    collector = new_collector(sqlite_store).start()
    settle(collector)
    assert collector.stop() == 0
    expected = [v for v in range(2 * ROWS + 2 * BLOCK_ROWS) if not ROWS <= v < 2 * ROWS]
    assert stored(sqlite_store) == expected


def test_repair_brings_back_what_belongs_to_root(nobody, backlog):
    directory, files = backlog(1)
    corrupt = directory / "corrupt"
    corrupt.mkdir()
    nobody(directory)
    files[0].rename(corrupt / files[0].name)
    os.chown(corrupt / files[0].name, 0, 0)
    assert metric_spool(directory, "repair", "--apply").returncode == 0
    assert files[0].stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert metric_spool(directory, "check").returncode == 0


def test_a_batch_that_is_there_is_not_brought_back(backlog):
    directory, files = backlog(1)
    (directory / "corrupt").mkdir()
    shutil.copy(files[0], directory / "corrupt")
    assert metric_spool(directory, "repair", "--apply").returncode == 0
    assert (directory / "corrupt" / files[0].name).exists()
    assert len(spoolfile.batches(directory)) == 2


# ---- what a check says ----


@pytest.mark.parametrize("name", ["identity", "sequence"])
def test_check_misses_identity_and_sequence(backlog, name):
    directory, _ = backlog(1)
    assert metric_spool(directory, "check").returncode == 0
    content = (directory / name).read_bytes()
    for what in ("missing", "damaged"):
        if what == "missing":
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content[:-1])
        before = spoolfile.snapshot(directory)
        result = metric_spool(directory, "check")
        assert result.returncode == 1
        assert f"{name}: {what}: " in result.stdout
        assert metric_spool(directory, "repair").returncode == 1
        assert spoolfile.snapshot(directory) == before
    assert metric_spool(directory, "repair", "--apply").returncode == 0
    assert metric_spool(directory, "check").returncode == 0


def test_a_directory_that_was_never_used_is_sound(tmp_path):
    result = metric_spool(tmp_path, "check")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_an_empty_file_is_a_leftover(new_collector, backlog, sqlite_store):
    directory, files = backlog(1)
    empty = directory / spoolfile.name(spoolfile.number(files[-1]) + 1)
    empty.touch()
    assert metric_spool(directory, "check").returncode == 0
    collector = new_collector(sqlite_store).start()
    settle(collector)
    assert not empty.exists()
    assert not collector.find("spool_corrupt")
    assert collector.stop() == 0
    assert stored(sqlite_store) == list(ALL)


# ---- things that are no files ----


@pytest.mark.parametrize("what", ["pipe", "directory"])
@pytest.mark.parametrize("name", ["sequence.new", "lock", "reserve"])
def test_no_file_in_the_place_of_one(new_collector, sqlite_store, name, what):
    """It is ready, receives, and stops in time."""
    collector = new_collector(sqlite_store)
    directory = pathlib.Path(collector.conf["buffer.spool"])
    directory.mkdir()
    if what == "pipe":
        os.mkfifo(directory / name)
    else:
        (directory / name).mkdir()
    collector.start()
    with collector.sender() as sender:
        sender.send(series("m", 10))
        assert sender.sync(2) == 0
    assert collector.stop() == 0
    assert stored(sqlite_store) == list(range(10))


def test_a_file_with_holes_costs_no_memory(new_collector, backlog, sqlite_store):
    directory, files = backlog(1)
    spoolfile.truncate(files[0], 3900 << 20)
    empty = directory / spoolfile.name(spoolfile.number(files[-1]) + 1)
    empty.touch()
    spoolfile.truncate(empty, 3900 << 20)
    collector = new_collector(sqlite_store).start()
    settle(collector)
    peak = int(pathlib.Path(f"/proc/{collector.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
    assert peak < 200 << 10  # kB
    assert collector.stop() == 0
    assert stored(sqlite_store) == list(ALL)
