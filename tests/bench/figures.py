#!/usr/bin/python3
"""
Measures what the guarantee costs, on a PostgreSQL of its own with fsync on.

    figures.py BUILD_DIRECTORY [overhead|ledger|sync|drain]...

Each round runs the variants one after the other on emptied tables; the figures are medians of
five rounds, and ratios of the rounds' neighbours, since machines are shared and noisy.  Nothing
here asserts anything.
"""
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
os.environ.setdefault("METRIC_COLLECTORD", os.path.join(sys.argv[1], "metric-collectord"))

from cluster import Cluster, server_directory  # noqa: E402
from collector import Collector  # noqa: E402

ROUNDS = 5
ROWS = 1_000_000
BUILD = sys.argv[1]


def tool(name, *args):
    out = subprocess.run(
        [os.path.join(BUILD, "tests/bench", name), *map(str, args)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {k: float(v) for k, v in re.findall(r"(\w+) ([\d.]+)", out)}


def empty(database):
    database.execute("TRUNCATE metrics, metric_collectord.batches")
    database.execute("CHECKPOINT")


def conninfo(database):
    return f"host=127.0.0.1 port={database.cluster.port} dbname={database.name} user=postgres"


def bare(database, *options):
    empty(database)
    return tool("copy", "-n", ROWS, *options, conninfo(database))["rate"]


def collector_for(database, directory, **conf):
    settings = {
        "listen": ["127.0.0.1:0"],
        "batch.interval": 1,
        "database.uri": database.uri,
        "database.timescaledb": "off",
        "log.target": "stderr",
        **{k.replace("__", "."): v for k, v in conf.items()},
    }
    settings.setdefault("buffer.spool", os.path.join(directory, "spool"))
    return Collector(directory, settings)


def through_daemon(database, **conf):
    empty(database)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        collector = collector_for(database, directory, **conf).start()
        collector.wait_event("database_connected")
        rate = tool("load", "-n", ROWS, "127.0.0.1", collector.port)["rate"]
        assert collector.stop() == 0
        return rate


def report(title, rounds, base):
    print(f"\n{title}: medians of {len(rounds)} rounds, {ROWS} rows, 200 names, 100,000 rows a COPY")
    for name in rounds[0]:
        rates = [r[name] for r in rounds]
        ratios = [r[name] / r[base] for r in rounds]
        print(
            f"  {name:32} {statistics.median(rates):10,.0f} rows/s   "
            f"{statistics.median(ratios):.3f} of {base}"
        )


def overhead(database):
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(
            {
                "daemon, no spool": through_daemon(database, buffer__spool=""),
                "daemon, spool, sync=never": through_daemon(database, buffer__sync="never"),
                "daemon, spool, sync=interval": through_daemon(database, buffer__sync="interval"),
                "daemon, spool, sync=always": through_daemon(database, buffer__sync="always"),
                "bare COPY": bare(database),
            }
        )
    report("spool", rounds, "daemon, no spool")


def ledger(database):
    rounds = []
    for _ in range(ROUNDS):
        rounds.append({"bare COPY": bare(database), "COPY with ledger": bare(database, "-l")})
    report("ledger", rounds, "bare COPY")


def sync(database):
    print("\nlevel-1 round trips, sync=always, microseconds, medians of 5")
    for clients in (1, 100, 1000):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            collector = collector_for(database, directory, buffer__sync="always").start()
            asks = ("-r", max(20, 2000 // clients), "-c", clients, "-s", 1)
            runs = [tool("load", *asks, "127.0.0.1", collector.port) for _ in range(ROUNDS)]
            assert collector.stop() == 0
        p50 = statistics.median(r["p50_us"] for r in runs)
        p99 = statistics.median(r["p99_us"] for r in runs)
        print(f"  {clients:5} clients   p50 {p50:9,.0f}   p99 {p99:9,.0f}")


def drain(database):
    """A backlog on disk, drained after a restart, against bare COPY of as many rows."""
    rounds = []
    for _ in range(ROUNDS):
        empty(database)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            away = collector_for(database, directory, database__uri="postgresql://127.0.0.1:9/x")
            away.start()
            tool("load", "-n", DRAIN_ROWS, "-s", 1, "127.0.0.1", away.port)
            size = away.statistics()["spool_bytes"]
            assert away.stop() == 0
            back = collector_for(database, directory).start()
            done = back.wait_statistics(600, buffered=0)
            stored = back.find("batch_stored")
            seconds = timestamp(stored[-1]) - timestamp(back.find("database_connected")[0])
            assert done["stored"] == DRAIN_ROWS
            assert back.stop() == 0
        empty(database)
        copy = tool("copy", "-n", DRAIN_ROWS, conninfo(database))["rate"]
        rounds.append({"drain": DRAIN_ROWS / seconds, "bare COPY": copy})
        print(f"  backlog {size / 2**20:.0f} MiB: {rounds[-1]}", flush=True)
    report("drain", rounds, "bare COPY")


def timestamp(event):
    return datetime.strptime(event["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").timestamp()


DRAIN_ROWS = int(os.environ.get("DRAIN_ROWS", 31_000_000))  # 1 GiB of frames


def main():
    wanted = sys.argv[2:] or ["overhead", "ledger", "sync", "drain"]
    cluster = Cluster(
        server_directory(),
        fsync="on",
        full_page_writes="on",
        synchronous_commit="on",
        shared_buffers="1GB",
        max_wal_size="8GB",
    ).start()
    try:
        database = cluster.create_database("bench")
        with tempfile.TemporaryDirectory() as directory:
            first = collector_for(database, directory).start()
            first.wait_event("database_connected")
            first.stop()
        for name in wanted:
            globals()[name](database)
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
