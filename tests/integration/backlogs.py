"""A fixture: the spool of a daemon that was killed while its database was away."""
import pathlib

import pytest

import spoolfile
from cluster import free_port
from wire import series

ROWS = 300  # of a batch, in three blocks
BLOCK_ROWS = 100


def nowhere():
    """A database that is away."""
    return f"postgresql://postgres@127.0.0.1:{free_port()}/postgres?connect_timeout=1"


@pytest.fixture
def backlog(new_collector):
    """backlog(n) leaves n sealed batches and an open one; the values go on from batch to batch."""

    def leave(count, **settings):
        collector = new_collector(
            database__uri=nowhere(),
            batch__interval=3600,
            batch__max_rows=ROWS,
            buffer__sync="always",
            **settings,
        ).start()
        with collector.sender() as sender:
            for block in range(count * 3 + 2):
                sender.send(series("m", BLOCK_ROWS, first=block * BLOCK_ROWS))
                assert sender.sync(1) == 0
        collector.kill9()
        directory = pathlib.Path(collector.conf["buffer.spool"])
        files = spoolfile.batches(directory)
        assert len(files) == count + 1
        assert [len(spoolfile.blocks(p.read_bytes())) for p in files] == [3] * count + [2]
        return directory, files

    return leave


def block_values(file_index, block_index):
    first = file_index * ROWS + block_index * BLOCK_ROWS
    return range(first, first + BLOCK_ROWS)
