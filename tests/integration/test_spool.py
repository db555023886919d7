"""What a start makes of the spool it finds: damage, foreign files, newer formats, large backlogs."""
import os
import pathlib
import random
import uuid

import pytest

import spoolfile
from backlogs import BLOCK_ROWS, ROWS, backlog, block_values, nowhere  # noqa: F401 (a fixture)
from faults import settle
from processes import rchar
from wire import T0, series

SEED = 20260131


def assert_values(store, expected):
    """The two checks, and nothing but what was sound."""
    stored = sorted(int(v) for (v,) in store.rows("SELECT value FROM metrics"))
    assert len(stored) == len(set(stored)), "duplicates"
    assert stored == sorted(expected)


def lost_bytes(collector):
    """By the name of the file."""
    return {os.path.basename(e["file"]): e["lost_bytes"] for e in collector.find("spool_corrupt")}


def store_backlog(new_collector, store, **options):
    collector = new_collector(store, **options).start()
    settle(collector)
    return collector


def assert_clean(new_collector, store, directory, expected):
    """Another start finds nothing, neither damage nor batches."""
    collector = store_backlog(new_collector, store)
    assert not collector.find("spool_corrupt")
    assert not collector.find("spool_recovered")
    assert collector.stop() == 0
    assert spoolfile.batches(directory) == []
    assert_values(store, expected)


# ---- damage ----


def test_any_mixture_of_damage(new_collector, store, backlog, tmp_path):
    directory, files = backlog(14)
    expected = set(range(14 * ROWS + 2 * BLOCK_ROWS))
    lost = {}
    block_size = spoolfile.blocks(files[0].read_bytes())[0][1] - spoolfile.HEADER_SIZE
    whole_size = files[0].stat().st_size

    def lose(index, size, *numbers):
        lost[files[index].name] = size
        for block in numbers:
            expected.difference_update(block_values(index, block))

    # 0 is sound
    spoolfile.flip(files[1], spoolfile.HEADER_SIZE + block_size + 50)  # in the middle block
    lose(1, block_size, 1)
    spoolfile.flip(files[2], 35)  # the header's number
    lose(2, spoolfile.HEADER_SIZE)
    spoolfile.flip(files[3], 70)  # the summary: scanned instead
    spoolfile.truncate(files[4], whole_size - 10)
    lose(4, block_size, 2)
    spoolfile.truncate(files[5], whole_size - block_size)
    lose(5, block_size, 2)
    spoolfile.truncate(files[6], 50)
    lose(6, 50, 0, 1, 2)
    spoolfile.truncate(files[7], 0)  # a leftover, without a word
    for block in range(3):
        expected.difference_update(block_values(7, block))
    spoolfile.truncate(files[8], spoolfile.HEADER_SIZE)
    lose(8, spoolfile.HEADER_SIZE, 0, 1, 2)
    strange = directory / spoolfile.name(spoolfile.number(files[14]) + 7)
    files[9].rename(strange)
    files[9] = strange
    lose(9, whole_size, 0, 1, 2)
    files[10].unlink()
    files[10].mkdir()
    (files[10] / "file").write_bytes(b"x")
    lose(10, 0, 0, 1, 2)
    files[11].unlink()
    files[11].symlink_to("/etc/passwd")
    lose(11, 0, 0, 1, 2)
    with open(files[13], "ab") as file:
        file.write(b"garbage behind the end")
    lose(13, len(b"garbage behind the end"))
    fifo = directory / spoolfile.name(spoolfile.number(files[14]) + 8)
    os.mkfifo(fifo)
    lost[fifo.name] = 0
    spoolfile.truncate(files[14], files[14].stat().st_size - 5)  # torn
    expected.difference_update(block_values(14, 1))

    collector = store_backlog(new_collector, store)
    assert collector.stop() == 0  # by then all damage has been put aside
    torn = collector.find("spool_torn")
    assert [os.path.basename(e["file"]) for e in torn] == [files[14].name]
    assert torn[0]["bytes"] == block_size - 5
    found = lost_bytes(collector)
    assert found.pop(files[8].name) >= spoolfile.HEADER_SIZE  # the blocks that are gone count, too
    del lost[files[8].name]
    assert found == lost
    assert_values(store, expected)
    aside = {p.name.partition(".batch")[0] for p in (directory / "corrupt").iterdir()}
    on_disk_no_more = {files[5].name}
    assert aside >= {n.partition(".batch")[0] for n in set(lost) - on_disk_no_more}
    assert (directory / "corrupt" / files[10].name / "file").read_bytes() == b"x"
    assert pathlib.Path("/etc/passwd").stat().st_size > 0
    assert_clean(new_collector, store, directory, expected)


def damage(rng, path, values):
    """Damages one file at random; returns what is left of its values: those of untouched blocks."""
    data = path.read_bytes()
    places = spoolfile.blocks(data)
    touched = bytearray(len(data))
    new = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.choice([1, 1, 8, 500]))
        for i in range(at, end):
            new[i] ^= rng.randint(1, 255)
            touched[i] = 1
    if rng.random() < 0.3:
        size = rng.randrange(len(data))
        del new[size:]
        touched[size:] = b"\1" * (len(data) - size)
    path.write_bytes(new)
    same = [new[i] == data[i] if i < len(new) else False for i in range(len(data))]
    return [v for block, (begin, end) in zip(values, places) if all(same[begin:end]) for v in block]


def test_random_damage(new_collector, sqlite_store, backlog):
    rng = random.Random(SEED)
    directory, files = backlog(30)
    expected = []
    for index, path in enumerate(files):
        count = 2 if path == files[-1] else 3
        expected += damage(rng, path, [block_values(index, block) for block in range(count)])
    assert len(expected) > 10 * BLOCK_ROWS
    collector = store_backlog(new_collector, sqlite_store)
    assert collector.stop() == 0
    assert len(lost_bytes(collector)) > 20
    assert_clean(new_collector, sqlite_store, directory, expected)


def test_damage_is_reported_once_although_the_database_is_away(new_collector, sqlite_store, backlog):
    directory, files = backlog(2)
    spoolfile.truncate(files[0], files[0].stat().st_size - 10)
    events = 0
    for _ in range(3):
        collector = new_collector(database__uri=nowhere(), batch__interval=3600).start()
        events += len(collector.find("spool_corrupt"))
        assert collector.find("spool_recovered")[0]["batches"] == 3
        collector.kill9()
    assert events == 1
    expected = set(range(2 * ROWS + 2 * BLOCK_ROWS)) - set(block_values(0, 2))
    assert_clean_after_storing(new_collector, sqlite_store, directory, expected)


def assert_clean_after_storing(new_collector, store, directory, expected):
    assert store_backlog(new_collector, store).stop() == 0
    assert_clean(new_collector, store, directory, expected)


# ---- what is not ours ----


def test_other_files_are_left_alone(new_collector, sqlite_store, backlog):
    directory, files = backlog(2)
    names = [
        "notes.txt",
        "1.batch",
        files[0].name + "~",
        "0" * 20 + ".batch",
        "9" * 20 + ".batch",
        "x" * 20 + ".batch",
    ]
    for one in names:
        (directory / one).write_text("not a batch\n")
    (directory / "folder").mkdir()
    left = directory / spoolfile.name(spoolfile.number(files[1]), ".batch.new")
    left.write_bytes(files[1].read_bytes()[:200])  # a copy that was being written
    collector = store_backlog(new_collector, sqlite_store)
    assert not collector.find("spool_corrupt")
    assert collector.stop() == 0
    assert_values(sqlite_store, range(2 * ROWS + 2 * BLOCK_ROWS))
    assert all((directory / one).read_text() == "not a batch\n" for one in names)
    assert not left.exists()


def test_batches_of_another_collector(new_collector, store, backlog):
    """They keep their names in the ledger: what that collector has stored is recognised."""
    directory, files = backlog(2)
    other = uuid.UUID("01234567-89ab-4def-8123-456789abcdef")
    spoolfile.change_header(files[1], collector=other.bytes)
    copy = files[1].read_bytes()
    collector = store_backlog(new_collector, store)
    assert collector.stop() == 0
    assert store.rows(f"SELECT batch, rows FROM {store.ledger} WHERE collector = '{other}'") == [
        (spoolfile.number(files[1]), ROWS)
    ]
    files[1].write_bytes(copy)
    again = store_backlog(new_collector, store)
    assert again.statistics()["batches_repeated"] == 1
    assert again.stop() == 0
    assert_values(store, range(2 * ROWS + 2 * BLOCK_ROWS))


@pytest.mark.parametrize("what", [".batch", ".stored", "identity"])
def test_newer_format_is_refused_and_left_untouched(new_collector, sqlite_store, backlog, what):
    directory, files = backlog(2)
    if what == "identity":
        identity = directory / "identity"
        text = identity.read_text()
        identity.write_text(text.replace("spool 1\n", "spool 2\n"))
        assert identity.read_text() != text
    else:
        spoolfile.change_header(files[1], version=2)
        files[1].rename(files[1].with_suffix(what))
    spoolfile.flip(files[0], 150)
    before = spoolfile.snapshot(directory)
    collector = new_collector(sqlite_store).start(wait=None)
    assert collector.wait() == 1
    assert "newer version" in collector.find("spool_failed")[0]["error"]
    assert spoolfile.snapshot(directory) == before


# ---- identity and numbers ----


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("names", [("identity",), ("sequence",), ("identity", "sequence")])
def test_lost_names(new_collector, store, backlog, names, how):
    """The backlog keeps its identity; what comes now has a new one, under which no number was used."""
    directory, _ = backlog(2)
    old = (directory / "identity").read_text().splitlines()[1]
    for one in names:
        if how == "missing":
            (directory / one).unlink()
        else:
            spoolfile.flip(directory / one, 3)
    collector = new_collector(store).start()
    new = collector.wait_event("ready")["collector"]
    assert new != old
    expected = {} if how == "missing" else {one: (directory / "corrupt" / one).stat().st_size for one in names}
    assert lost_bytes(collector) == expected
    collector.send(series("m", ROWS, first=100_000))
    settle(collector)
    assert collector.stop() == 0
    assert_values(store, [*range(2 * ROWS + 2 * BLOCK_ROWS), *range(100_000, 100_000 + ROWS)])
    rows = store.rows(f"SELECT collector, sum(rows) FROM {store.ledger} GROUP BY 1")
    assert dict((str(c), int(n)) for c, n in rows) == {old: 2 * ROWS + 2 * BLOCK_ROWS, new: ROWS}


def test_numbers_never_repeat(new_collector, sqlite_store):
    """Although no batch is left in the spool, and the daemon is killed."""
    numbers, collectors = [], set()
    for start in range(4):
        collector = new_collector(sqlite_store).start()
        collectors.add(collector.wait_event("ready")["collector"])
        collector.send(series("m", 10, first=start * 10))
        settle(collector)
        # one whose file the kill has left is recognised
        numbers += [e["batch"] for e in collector.find("batch_stored") if not e.get("repeated")]
        assert collector.kill9() if start % 2 else collector.stop() == 0
    assert len(collectors) == 1
    assert numbers == sorted(set(numbers))
    assert_values(sqlite_store, range(40))


# ---- large backlogs ----


def test_start_reads_headers_and_not_the_backlog(new_collector, sqlite_store, backlog):
    """Half a gigabyte waits (in files with holes): a start reads a few bytes of each file."""
    directory, files = backlog(1)
    collector = uuid.UUID((directory / "identity").read_text().splitlines()[1]).bytes
    first = spoolfile.number(files[-1]) + 1
    size, rows = 16 << 20, 400_000
    for number in range(first, first + 32):
        path = directory / spoolfile.name(number)
        path.write_bytes(
            spoolfile.header(number, collector) + spoolfile.summary(16, rows, size, T0, T0 + rows)
        )
        spoolfile.truncate(path, size)
    one = new_collector(database__uri=nowhere(), batch__interval=3600).start()
    assert one.wait_event("spool_recovered")["batches"] == 2 + 32
    assert one.statistics()["buffered"] == ROWS + 2 * BLOCK_ROWS + 32 * rows
    assert rchar(one.pid) < 2 << 20
    one.kill9()
    for number in range(first, first + 32):
        (directory / spoolfile.name(number)).unlink()
    expected = range(ROWS + 2 * BLOCK_ROWS)
    assert_clean_after_storing(new_collector, sqlite_store, directory, expected)
