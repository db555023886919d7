"""Files that are none where the settings are read: at a start and at a reload."""
import os
import subprocess

import pytest

from programs import daemon_path
from waiting import seconds
from wire import frame


@pytest.fixture
def replace(tmp_path):
    """Puts something else in the place of a file, until the test ends."""
    writers = []

    def with_what(path, what):
        os.unlink(path)
        if what == "directory":
            os.mkdir(path)
        else:
            os.mkfifo(path)
        if what == "FIFO with a writer":
            writers.append(os.open(path, os.O_RDWR))

    yield with_what
    for writer in writers:
        os.close(writer)


KINDS = ["FIFO", "FIFO with a writer", "directory"]
WRONG = ("regular file", "directory")


def check(*args, stdin=subprocess.DEVNULL):
    result = subprocess.run(
        [daemon_path(), "-t", *args],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds(20),
        check=False,
    )
    return result.returncode, result.stdout.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_became_no_file(start_collector, sqlite_store, replace, kind):
    """The loop goes on, with the settings that it has, and the next reload is a reload again."""
    collector = start_collector(sqlite_store)
    replace(collector.conf_path, kind)
    error = collector.reload("reload_failed")["error"]
    assert collector.conf_path in error and any(word in error for word in WRONG)
    with collector.sender() as sender:
        sender.send(frame("m", 1))
        assert sender.sync(2) == 0
    assert sqlite_store.count() == 1
    if kind == "directory":
        os.rmdir(collector.conf_path)
    else:
        os.unlink(collector.conf_path)
    collector.write_conf(max_clients=7)
    collector.reload()
    assert collector.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_password_that_became_no_file(start_collector, sqlite_store, tmp_path, replace, kind):
    path = tmp_path / "password"
    path.write_text("secret\n")
    collector = start_collector(sqlite_store, database__password_file=path)
    replace(path, kind)
    error = collector.reload("reload_failed")["error"]
    assert "database.password_file" in error and any(word in error for word in WRONG)
    assert collector.stop() == 0


def test_a_pipe_is_no_configuration(tmp_path):
    """It could not be read again at a reload."""
    read, write = os.pipe()
    try:
        status, output = check("-c", "/dev/stdin", stdin=read)
    finally:
        os.close(read)
        os.close(write)
    assert status == 1
    assert "/dev/stdin: it is not a regular file" in output


def test_a_file_by_another_name_is_one(tmp_path):
    path = tmp_path / "a.conf"
    path.write_text("max_clients = 5\n")
    link = tmp_path / "b.conf"
    link.symlink_to(path)
    with open(path, "rb") as file:
        assert check("-c", "/dev/stdin", stdin=file)[0] == 0
    assert check("-c", str(link))[0] == 0
    assert check("-c", "/dev/null")[0] == 0


def test_a_file_that_is_too_large(tmp_path):
    path = tmp_path / "sparse.conf"
    with open(path, "wb") as file:
        file.truncate(4 << 30)
    status, output = check("-c", str(path))
    assert status == 1
    assert str(path) in output
