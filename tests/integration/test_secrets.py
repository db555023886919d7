"""No word of a password where it does not belong: messages, logs, the list of processes."""
import subprocess

import pytest

from collector import environment
from programs import daemon_path
from waiting import seconds
from wire import frame

SECRET = "Hun7er2"
URI = f"postgresql://col:pa@{SECRET}@127.0.0.1/db"

URIS = {
    "at sign": URI,
    "two at signs": f"postgresql://col:pa@@{SECRET}@127.0.0.1/db",
    "slash": f"postgresql://col:pa/{SECRET}@127.0.0.1/db",
    "no host": f"postgresql://col:{SECRET}/db",
    "behind the port": f"postgresql://col@127.0.0.1:5432{SECRET}/db",
    "percent": f"postgresql://col:pa%{SECRET}@127.0.0.1/db",
    "bracket": f"postgresql://col:pa@[{SECRET}/db",
    "words": f"host=127.0.0.1 user=col password=pa {SECRET} dbname=db",
    "quotes": f"host=127.0.0.1 user=col password='pa'{SECRET}' dbname=db",
    "host": f"host=col:pa@{SECRET}@127.0.0.1 dbname=db",
    "name": f"host=127.0.0.1 dbname=postgresql://col:{SECRET}@127.0.0.1/db",
    "no scheme": f"col:pa@{SECRET}@127.0.0.1/db",
}
uris = pytest.mark.parametrize("uri", URIS.values(), ids=URIS.keys())


def check(conf, *args, env=None, status=1):
    for arguments in (["-t"], []) if status else (["-t"],):
        result = subprocess.run(
            [daemon_path(), *arguments, "-c", conf, *args],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds(20),
            check=False,
        )
        output = result.stdout + result.stderr
        assert result.returncode == (2 if status and not arguments else status), output
        assert SECRET not in output
    return output


@pytest.fixture
def conf_file(tmp_path):
    def write(text):
        path = tmp_path / "test.conf"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@uris
def test_a_uri_that_is_none(conf_file, uri):
    """Wherever it is given."""
    assert "database.uri" in check(conf_file(f'database {{\n  uri = "{uri}"\n}}\n'))
    assert "database.uri" in check(conf_file(""), "-o", f"database.uri={uri}")
    assert "DATABASE_URL" in check(conf_file(""), env={"DATABASE_URL": uri})


@uris
def test_a_uri_that_is_not_in_quotes(conf_file, uri):
    check(conf_file(f"database {{\n  uri = {uri}\n}}\n"))
    check(conf_file(f'database {{\n  uri = "x"{uri}""\n}}\n'))


MISPLACED = {
    "DB_HOST": f"col:pa@{SECRET}@127.0.0.1",
    "DB_PORT": SECRET,
    "DB_NAME": URI,
    "DB_USER": URI,
}


@pytest.mark.parametrize("variable, value", MISPLACED.items())
def test_a_variable_that_holds_something_else(conf_file, variable, value):
    assert variable in check(conf_file(""), env={variable: value})


def test_a_password_in_the_place_of_its_file(conf_file):
    check(conf_file(""), "-o", f"database.password_file={SECRET}")
    check(conf_file(f'database {{ password_file = "{SECRET}" }}'))


def test_arguments_that_make_no_sense(conf_file):
    for arguments in ([URI], [f"password={SECRET}"]):
        result = subprocess.run(
            [daemon_path(), *arguments], capture_output=True, text=True, timeout=seconds(20)
        )
        assert result.returncode == 2
        assert SECRET not in result.stdout + result.stderr
    check(conf_file(""), "-o", f"postgresql://col:{SECRET}@h/db")
    check(conf_file(""), "-o", f"postgresql://col:{SECRET}@h/db?sslmode=require")


def test_a_reload_shows_nothing(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    for uri in URIS.values():
        collector.write_conf(database__uri=uri)
        assert collector.reload("reload_failed")["error"]
    assert SECRET not in collector.log_text()


def test_libpq_has_its_hosts_from_elsewhere(start_collector):
    """PGHOST is no setting: it is refused when a connection is made."""
    collector = start_collector(
        database__uri="postgresql:///db", env={"PGHOST": f"pa@{SECRET}@127.0.0.1"}
    )
    collector.send(frame("m", 1))
    collector.wait_event("database_unavailable")
    collector.stop_at_once()
    assert SECRET not in collector.log_text()


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode()


def test_a_password_on_the_command_line_is_wiped_and_told(start_collector, database):
    """The settings have it all the same, also after a reload."""
    uri = f"postgresql://postgres:{SECRET}@127.0.0.1:{database.cluster.port}/{database.name}"
    collector = start_collector(database__uri=None, options=[f"database.uri={uri}"])
    assert collector.find("password_visible")[0]["level"] == "warning"
    assert SECRET not in command_line(collector.pid)
    assert "database.uri=***" in command_line(collector.pid)
    collector.write_conf(batch__interval=0.1)
    collector.reload()
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert SECRET not in collector.log_text()


def test_a_command_line_without_a_password_is_no_matter(start_collector, database):
    collector = start_collector(database__uri=None, options=[f"database.uri={database.uri}"])
    assert not collector.find("password_visible")


def test_a_check_tells_of_the_command_line_too(conf_file):
    uri = f"postgresql://col:{SECRET}@127.0.0.1/db"
    assert "command line" in check(conf_file(""), "-o", f"database.uri={uri}", status=0)
