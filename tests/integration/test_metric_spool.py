"""metric-spool(8), on sound, damaged, foreign and live spools."""
import json
import math
import os
import pwd
import shutil
import subprocess

import pytest

import spoolfile
import wire
from backlogs import BLOCK_ROWS, ROWS, backlog, block_values, nowhere  # noqa: F401 (a fixture)
from collector import environment
from faults import settle
from programs import metric_spool_path
from waiting import seconds, wait_until

ALL = range(2 * ROWS + 2 * BLOCK_ROWS)  # of backlog(2)


@pytest.fixture
def metric_spool():
    path = metric_spool_path()
    assert path, "set METRIC_SPOOL to the program to test"

    def run(*args, text=True):
        result = subprocess.run(
            [path, *map(str, args)],
            capture_output=True,
            text=text,
            env=environment(),
            timeout=seconds(60),
        )
        report = result.stderr if text else result.stderr.decode()
        assert "Sanitizer" not in report and "runtime error" not in report, report
        return result

    return run


@pytest.fixture
def spool(metric_spool, backlog):
    """(directory, files, run): two whole batches and an open one; run COMMAND works on them."""
    directory, files = backlog(2)
    return directory, files, lambda *args, **more: metric_spool("-d", directory, *args, **more)


def values(text):
    return [json.loads(line)["value"] for line in text.splitlines()]


def damage_one(files):
    """A bit of the second block of the first batch; returns what is left of all values."""
    begin, end = spoolfile.blocks(files[0].read_bytes())[1]
    spoolfile.flip(files[0], begin + 50)
    return sorted(set(ALL) - set(block_values(0, 1))), end - begin


# ---- looking ----


def test_status(spool):
    directory, files, run = spool
    before = spoolfile.snapshot(directory)
    result = run("status")
    assert (result.returncode, result.stderr) == (0, "")
    title, *lines, total = result.stdout.splitlines()
    assert title.split() == ["FILE", "STATE", "ROWS", "BYTES", "OLDEST", "NEWEST"]
    for line, path, state, rows in zip(
        lines, files, ("waiting", "waiting", "open"), (ROWS, ROWS, 2 * BLOCK_ROWS), strict=True
    ):
        assert line.split()[:4] == [path.name, state, str(rows), str(path.stat().st_size)]
    first, last = (f"2025-06-15T15:06:40.{us:06}Z" for us in (ROWS, 2 * ROWS - 1))
    assert lines[1].split()[4:] == [first, last]
    sizes = sum(path.stat().st_size for path in files)
    assert total.split() == (
        f"waiting: batches 3, rows {len(ALL)}, bytes {sizes}, oldest {wire.T0_TEXT}".split()
    )
    assert spoolfile.snapshot(directory) == before


def test_status_as_json(spool):
    directory, files, run = spool
    spoolfile.truncate(files[0], files[0].stat().st_size - 1)
    result = run("status", "-j")
    assert (result.returncode, result.stderr) == (0, "")
    *lines, waiting, kept = (json.loads(line) for line in result.stdout.splitlines())
    assert [(one["file"], one["state"], one["rows"]) for one in lines] == [
        (files[0].name, "damaged", 2 * BLOCK_ROWS),
        (files[1].name, "waiting", ROWS),
        (files[2].name, "open", 2 * BLOCK_ROWS),
    ]
    begin, end = spoolfile.blocks(files[1].read_bytes())[2]
    assert [one["damaged_bytes"] for one in lines] == [end - begin - 1, 0, 0]
    assert [one["batch"] for one in lines] == [spoolfile.number(path) for path in files]
    assert (lines[0]["oldest"], lines[1]["newest"]) == (wire.T0_TEXT, "2025-06-15T15:06:40.000599Z")
    assert (waiting["total"], waiting["batches"]) == ("waiting", 3)
    assert waiting["rows"] == sum(one["rows"] for one in lines)
    assert waiting["oldest"] == wire.T0_TEXT
    assert kept == {"total": "kept", "batches": 0, "rows": 0, "bytes": 0}


def test_empty_spool(spool):
    directory, files, run = spool
    for path in files:
        path.unlink()
    assert run("status").stdout == "waiting: batches 0, rows 0, bytes 0, oldest -\n"
    assert run("check").returncode == 0
    assert run("cat").stdout == ""


def test_cat_prints_every_metric(metric_spool, new_collector):
    names = ["cpu", "with space", 'quote"back\\slash', "größe.温度.🌡", "x" * 255]
    numbers = [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308]
    frames = b"".join(
        wire.frame(name, number, wire.T0 + i)
        for i, (name, number) in enumerate((n, v) for n in names for v in numbers)
    )
    frames += wire.frame("last", 1, wire.TIME_MAX)
    collector = new_collector(database__uri=nowhere(), buffer__sync="never").start()
    with collector.sender() as sender:
        sender.send(frames)
        assert sender.sync(1) == 0
    collector.kill9()
    result = metric_spool("-c", collector.conf_path, "cat")
    assert (result.returncode, result.stderr) == (0, "")
    found = [json.loads(line, parse_int=float) for line in result.stdout.splitlines()]
    assert [(one["metric"], str(float(one["value"]))) for one in found[:-1]] == [
        (name, str(number)) for name in names for number in numbers
    ]
    assert found[0]["time"] == wire.T0_TEXT
    assert found[-1] == {"time": "9999-12-31T23:59:59.999999Z", "metric": "last", "value": 1}
    assert metric_spool("-c", collector.conf_path, "cat", "-r", text=False).stdout == frames


def test_cat_of_some_batches(spool):
    directory, files, run = spool
    assert values(run("cat").stdout) == list(ALL)
    third, first = (str(spoolfile.number(files[i])) for i in (2, 0))
    assert values(run("cat", third, first).stdout) == [*range(ROWS), *range(2 * ROWS, len(ALL))]
    for wrong in ("999", "x", "", first + "x", "-5"):
        result = run("cat", "--", wrong)
        assert (result.returncode, result.stdout) == (1, "")
        assert "no batch" in result.stderr


def test_kept_batches(metric_spool, new_collector, sqlite_store):
    collector = new_collector(sqlite_store, buffer__keep="1 hour").start()
    collector.send(wire.series("m", 100))
    settle(collector)
    assert collector.stop() == 0
    run = lambda *args: metric_spool("-c", collector.conf_path, *args)
    path = spoolfile.batches(collector.conf["buffer.spool"], ".stored")[0]
    title, line, waiting, kept = run("status").stdout.splitlines()
    assert line.split()[:3] == [path.name, "kept", "100"]
    assert waiting.startswith("waiting: batches 0,")
    assert kept.startswith("kept: batches 1, rows 100,")
    assert run("cat").stdout == ""
    assert values(run("cat", "-a").stdout) == list(range(100))
    assert values(run("cat", spoolfile.number(path)).stdout) == list(range(100))
    assert run("check").returncode == 0
    assert run("repair").stdout.endswith("nothing to repair\n")


def test_check_names_the_damage_and_changes_nothing(spool):
    directory, files, run = spool
    assert run("check").returncode == 0
    left, size = damage_one(files)
    spoolfile.truncate(files[2], files[2].stat().st_size - 3)  # torn: no damage
    before = spoolfile.snapshot(directory)
    result = run("check")
    begin = spoolfile.blocks(files[1].read_bytes())[1][0]
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        f"{files[0].name}: {size} damaged bytes at offset {begin}",
        f"{files[0].name}: {ROWS - BLOCK_ROWS} of {ROWS} rows are left",
        f"{files[2].name}: the last {size - 3} bytes are an unfinished block, as a crash leaves it",
        f"{directory}: files 3, rows {len(left) - BLOCK_ROWS}, damaged files 1, damaged bytes {size}",
    ]
    cat = run("cat")
    assert cat.returncode == 1
    assert f"{files[0].name} is damaged" in cat.stderr
    assert values(cat.stdout) == left[: -BLOCK_ROWS]
    assert run("repair").returncode == 1
    assert spoolfile.snapshot(directory) == before


def test_things_that_are_no_files(spool):
    """A pipe must not keep it waiting, a link must not lead it away."""
    directory, files, run = spool
    number = spoolfile.number(files[2])
    pipe, link, folder = (directory / spoolfile.name(number + i) for i in (1, 2, 3))
    os.mkfifo(pipe)
    link.symlink_to("/etc/passwd")
    folder.mkdir()
    for command in ("status", "check", "cat", "repair"):
        result = run(command)
        assert result.returncode == 1
        assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
            str(path) for path in (pipe, link, folder)
        ]
    assert run("repair", "--apply").returncode == 0
    assert {p.name for p in (directory / "corrupt").iterdir()} == {pipe.name, link.name, folder.name}
    assert run("check").returncode == 0


# ---- a live spool ----


def test_live_spool(metric_spool, new_collector, sqlite_store, tmp_path):
    """Its status only; the daemon notices nothing."""
    collector = new_collector(sqlite_store, batch__interval=3600, buffer__sync="never").start()
    directory = collector.conf["buffer.spool"]
    output = tmp_path / "output"
    with collector.sender() as sender:
        for first in range(0, 1000, 100):
            sender.send(wire.series("m", 100, first=first))
            assert sender.sync(1) == 0
            result = metric_spool("-d", directory, "status")
            assert (result.returncode, result.stderr) == (0, "")
            assert f"in use by process {collector.pid}\n" in result.stdout
            assert f"waiting: batches 1, rows {first + 100}," in result.stdout
        fresh = directory / spoolfile.name(999)  # as the daemon makes it: its header follows
        fresh.touch()
        lines = metric_spool("-d", directory, "status", "-j").stdout.splitlines()
        assert {json.loads(line).get("state") for line in lines} == {"open", None}
        fresh.unlink()
        before = spoolfile.snapshot(directory)
        for command in (["check"], ["cat"], ["repair"], ["repair", "--apply"], ["export", output]):
            result = metric_spool("-d", directory, *command)
            assert (result.returncode, result.stdout) == (1, "")
            assert f"in use by process {collector.pid}: stop the daemon first" in result.stderr
        assert spoolfile.snapshot(directory) == before
        assert not output.exists()
        assert sender.sync(2) == 0
    assert collector.stop() == 0
    assert sqlite_store.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(1000, 1000)]


def test_status_while_batches_come_and_go(metric_spool, new_collector, sqlite_store):
    """Files that vanish under its eyes are no error, and none seems damaged."""
    collector = new_collector(
        sqlite_store, batch__interval=0.02, batch__max_rows=50, buffer__sync="never"
    ).start()
    with collector.sender() as sender:
        for first in range(0, 20_000, 500):
            sender.send(wire.series("m", 500, first=first))
            result = metric_spool("-d", collector.conf["buffer.spool"], "status", "-j")
            assert result.returncode == 0
            assert result.stderr == (
                f"{collector.conf['buffer.spool']}: in use by process {collector.pid}\n"
            )
            states = {json.loads(line).get("state") for line in result.stdout.splitlines()}
            assert states <= {"open", "waiting", None}
    settle(collector)
    assert collector.stop() == 0
    assert sqlite_store.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [
        (20_000, 20_000)
    ]


# ---- repair ----


def test_repair_shows_its_plan_and_does_it(spool, new_collector, sqlite_store):
    directory, files, run = spool
    left, size = damage_one(files)
    spoolfile.truncate(files[2], files[2].stat().st_size - 3)
    left = left[:-BLOCK_ROWS]
    number = spoolfile.number(files[2])
    foreign, empty, short = (directory / spoolfile.name(number + i) for i in (1, 2, 3))
    shutil.copy(files[1], foreign)
    empty.write_bytes(spoolfile.header(number + 2) + bytes(56))
    short.write_bytes(b"x" * 50)
    spoolfile.flip(files[1], 35)  # the header
    before = spoolfile.snapshot(directory)
    result = run("repair")
    assert (result.returncode, result.stderr) == (1, "")
    plan = [line for line in result.stdout.splitlines() if "batch: " in line]
    for step in (
        f"{files[0].name}: save {size} damaged bytes in corrupt/, keep {ROWS - BLOCK_ROWS} rows",
        f"{files[1].name}: save 112 damaged bytes in corrupt/, keep {ROWS} rows",
        f"{files[2].name}: cut {size - 3} bytes of an unfinished block off, seal it with {BLOCK_ROWS} rows",
        f"{foreign.name}: holds batch {spoolfile.number(files[1])}: move it to corrupt/",
        f"{empty.name}: holds no sound block: delete it",
        f"{short.name}: holds no sound block: move it to corrupt/",
    ):
        assert step in plan
    assert result.stdout.splitlines()[-1] == f"{directory}: 6 files to repair; --apply does it"
    assert spoolfile.snapshot(directory) == before

    result = run("repair", "--apply")
    assert result.returncode == 0, result
    assert result.stdout.splitlines()[-1] == f"{directory}: batches 3, rows {len(left)} are sound"
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert {os.path.basename(e["file"]): e["event"] for e in events} == {
        files[0].name: "spool_corrupt",
        files[1].name: "spool_corrupt",
        files[2].name: "spool_torn",
        foreign.name: "spool_corrupt",
        short.name: "spool_corrupt",
    }
    assert {p.name for p in (directory / "corrupt").iterdir()} >= {foreign.name, short.name}
    assert run("check").returncode == 0
    assert run("repair").stdout == f"{directory}: nothing to repair\n"
    assert values(run("cat").stdout) == left

    collector = new_collector(sqlite_store).start()
    settle(collector)
    assert not collector.find("spool_corrupt")
    assert collector.stop() == 0
    assert sorted(v for (v,) in sqlite_store.rows("SELECT value FROM metrics")) == left


def test_repair_does_what_the_daemon_does(spool, new_collector, sqlite_store):
    directory, files, run = spool
    left, _ = damage_one(files)
    spoolfile.truncate(files[1], files[1].stat().st_size - 5)
    left = [v for v in left if v not in block_values(1, 2)]
    copy = new_collector(sqlite_store, name="copy")
    shutil.copytree(directory, copy.conf["buffer.spool"])
    assert run("repair", "--apply").returncode == 0
    copy.start()
    settle(copy)
    assert copy.stop() == 0
    assert sorted(v for (v,) in sqlite_store.rows("SELECT value FROM metrics")) == left
    assert values(run("cat").stdout) == left
    contents = [
        {p.name: p.read_bytes() for p in (place / "corrupt").iterdir()}
        for place in (directory, copy.conf["buffer.spool"])
    ]
    assert contents[0] == contents[1]


def test_repair_works_as_the_owner(spool):
    if os.geteuid() != 0:
        pytest.skip("skipped: only root can become somebody else")
    directory, files, run = spool
    damage_one(files)
    owner = pwd.getpwnam("nobody")
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    for parent in directory.parents:
        if parent.is_relative_to("/tmp") and str(parent) != "/tmp":
            parent.chmod(parent.stat().st_mode | 0o111)
    assert run("repair", "--apply").returncode == 0
    assert (directory / "corrupt").is_dir()
    assert {p.stat().st_uid for p in directory.rglob("*")} == {owner.pw_uid}


def test_newer_format_is_refused(spool):
    directory, files, run = spool
    spoolfile.change_header(files[1], version=2)
    spoolfile.flip(files[0], 150)
    before = spoolfile.snapshot(directory)
    for command in (["status"], ["check"], ["cat"], ["repair"], ["repair", "--apply"]):
        result = run(*command)
        assert result.returncode == 1
        assert "a newer version wrote this file" in result.stderr
    assert spoolfile.snapshot(directory) == before


# ---- export ----


def test_export_is_replayed_with_nc(spool, start_collector, sqlite_store, tmp_path):
    directory, files, run = spool
    output = tmp_path / "frames"
    result = run("export", output)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert output.read_bytes() == wire.series("m", len(ALL))
    again = run("export", output)
    assert again.returncode == 1
    assert "File exists" in again.stderr
    other = start_collector(sqlite_store, name="other")
    with open(output, "rb") as frames:
        subprocess.run(
            ["nc", "-N", "127.0.0.1", str(other.port)],
            stdin=frames,
            check=True,
            timeout=seconds(60),
        )
    other.wait_statistics(received=len(ALL))
    settle(other)
    assert other.stop() == 0
    assert sorted(v for (v,) in sqlite_store.rows("SELECT value FROM metrics")) == list(ALL)


def test_export_of_a_damaged_spool_has_the_rest(spool, tmp_path):
    directory, files, run = spool
    left, _ = damage_one(files)
    output = tmp_path / "frames"
    result = run("export", output)
    assert result.returncode == 1
    assert "is damaged" in result.stderr
    size = len(wire.frame("m", 0))
    assert output.stat().st_size == len(left) * size


def test_a_copy_under_another_number_is_left_out(spool):
    directory, files, run = spool
    copy = directory / spoolfile.name(spoolfile.number(files[-1]) + 1)
    shutil.copy(files[1], copy)
    result = run("cat")
    assert result.returncode == 1
    assert copy.name in result.stderr
    assert values(result.stdout) == list(ALL)


@pytest.mark.parametrize("command", ["status", "check", "cat"])
def test_output_that_is_full(spool, command):
    if not os.path.exists("/dev/full"):
        pytest.skip("skipped: no /dev/full")
    directory, files, run = spool
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [metric_spool_path(), "-d", directory, command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds(60),
        )
    assert result.returncode == 1
    assert "No space left" in result.stderr


# ---- wrong usage ----


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["unknown"],
        ["status", "extra"],
        ["check", "extra"],
        ["repair", "extra"],
        ["export"],
        ["export", "a", "b"],
        ["--wrong", "status"],
    ],
    ids=" ".join,
)
def test_wrong_usage(metric_spool, tmp_path, args):
    result = metric_spool("-d", tmp_path, *args)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: metric-spool" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_version(metric_spool):
    assert metric_spool("-h").stdout.startswith("Usage: metric-spool")
    assert metric_spool("-V").stdout.startswith("metric-spool ")


def test_no_spool(metric_spool, tmp_path):
    result = metric_spool("-d", tmp_path / "missing", "status")
    assert result.returncode == 1
    assert "No such file or directory" in result.stderr
    conf = tmp_path / "conf"
    conf.write_text('buffer {\n    spool = ""\n}\n')
    result = metric_spool("-c", conf, "status")
    assert result.returncode == 2
    assert "has no spool" in result.stderr
    conf.write_text("nonsense = 1\n")
    result = metric_spool("-c", conf, "status")
    assert result.returncode == 2
    assert f"{conf}:1" in result.stderr
