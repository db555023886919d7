"""The connection to the server is cut after every so many bytes, in both directions."""
import pytest

from faults import Load, Proxy, assert_all_there_once, lose_commit_answers, settle


@pytest.fixture
def proxy(cluster):
    p = Proxy(cluster.port)
    yield p
    p.close()


def through(database, proxy):
    """The same database, by way of the proxy."""
    return database.uri.replace(f":{database.cluster.port}/", f":{proxy.port}/") + "?sslmode=disable"


# A batch of 2,000 rows is about 90,000 bytes up, and 100 to 300 down.
UP = [0, 1, 5, 10, 50, *range(100, 600, 50), 1000, 2000, 5000, *range(10000, 90000, 10000)]
DOWN = [*range(0, 120, 4), 130, 150, 180, 200, 230, 260]


@pytest.mark.parametrize("direction, counts", [("up", UP), ("down", DOWN)])
def test_connection_cut_under_load(start_collector, database, proxy, direction, counts):
    collector = start_collector(
        database,
        database__uri=through(database, proxy),
        buffer__sync="never",
        batch__interval=0.05,
        batch__max_rows=2000,
    )
    collector.wait_event("database_connected")
    with Load(collector.address) as load:
        for number, count in enumerate(counts, 1):
            proxy.cut_after(direction, count)
            proxy.wait_cut(number)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_answer_to_the_commit_is_lost(start_collector, database, proxy):
    """The server says COPY once it has committed; the daemon never hears it."""
    collector = start_collector(
        database, database__uri=through(database, proxy), batch__interval=3600
    )
    collector.wait_event("database_connected")
    lose_commit_answers(collector, proxy, database)
