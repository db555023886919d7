#!/usr/bin/python3
"""
Measures what the guarantee costs, on a PostgreSQL of its own with fsync on.

    figures.py BUILD_DIRECTORY [FIGURE]...

    overhead     what the spool costs              sort         what sorting costs and brings
    ledger       what the ledger costs             timescale    the daemon against a bare COPY
    sync         round trips of level 1            connections  1, 2 and 4 of them
    drain        a backlog after a restart         capacity     CPU time that a million metrics take
    spool        into the spool alone: rates and round trips, beside those of $BASE, another build
    refused      a batch of which the database refuses rows, beside a clean one

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

from citus import CitusCluster  # noqa: E402
from cluster import Cluster, has_extension, server_directory  # noqa: E402
from collector import Collector  # noqa: E402
from processes import cpu_seconds  # noqa: E402
from programs import daemon_path  # noqa: E402
from wire import T0, frame  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", 5))
ROWS = 1_000_000
MANY_ROWS = 3_000_000  # where a second would be over too soon
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
    database.execute("TRUNCATE metrics")
    database.execute("TRUNCATE metric_collectord.batches")
    database.execute("CHECKPOINT")


def conninfo(database):
    return f"host=127.0.0.1 port={database.cluster.port} dbname={database.name} user=postgres"


def bare(database, *options, rows=ROWS):
    empty(database)
    return tool("copy", "-n", rows, *options, conninfo(database))["rate"]


def collector_for(database, directory, **conf):
    settings = {
        "listen": ["127.0.0.1:0"],
        "batch.interval": 1,
        "database.uri": database.uri,
        "database.timescaledb": "auto" if database.timescale else "off",
        "log.target": "stderr",
        **{k.replace("__", "."): v for k, v in conf.items()},
    }
    settings.setdefault("buffer.spool", os.path.join(directory, "spool"))
    return Collector(directory, settings)


def through_daemon(database, rows=ROWS, **conf):
    empty(database)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        collector = collector_for(database, directory, **conf).start()
        collector.wait_event("database_connected")
        rate = tool("load", "-n", rows, "127.0.0.1", collector.port)["rate"]
        assert collector.stop() == 0
        return rate


def report(title, rounds, base, rows=ROWS):
    print(f"\n{title}: medians of {len(rounds)} rounds, {rows} rows, 200 names, 100,000 rows a COPY")
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


INTO_SPOOL = {
    "1 client, 64 KiB a piece": ("rate", "interval", ("-n", MANY_ROWS, "-p", 65536, "-s", 1)),
    "1,000 clients, 1,000 bytes": ("rate", "interval", ("-n", ROWS, "-c", 1000, "-p", 1000, "-s", 1)),
    "1,000 clients, one by one": ("rate", "interval", ("-n", 300_000, "-c", 1000, "-p", 1, "-s", 1)),
    **{
        f"{clients:,} clients, level 1, {sync}": (
            "p50_us", sync, ("-r", max(20, 2000 // clients), "-c", clients, "-s", 1)
        )
        for sync in ("always", "never")
        for clients in (1, 100, 1000)
    },
}


def into_spool(build, sync, load):
    """One load with the database away, through the daemon of a build."""
    program = os.environ["METRIC_COLLECTORD"]
    try:
        os.environ["METRIC_COLLECTORD"] = os.path.join(build, "metric-collectord")
        daemon_path.cache_clear()
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            settings = {
                "listen": ["127.0.0.1:0"],
                "batch.interval": 1,
                "database.uri": "postgresql://127.0.0.1:9/x",
                "buffer.spool": os.path.join(directory, "spool"),
                "buffer.sync": sync,
                "log.target": "stderr",
            }
            collector = Collector(directory, settings).start()
            figures = tool("load", *load, "127.0.0.1", collector.port)
            assert collector.stop() == 0
            return figures
    finally:
        os.environ["METRIC_COLLECTORD"] = program
        daemon_path.cache_clear()


def spool(_database):
    """With $BASE, each round has one run of either build; ratios are of these pairs."""
    base = os.environ.get("BASE")
    print(f"\ninto the spool, medians of {ROUNDS} rounds" + (", of $BASE, and ratio" if base else ""))
    for title, (figure, sync, load) in INTO_SPOOL.items():
        rounds = [
            [into_spool(build, sync, load)[figure] for build in (BUILD, base) if build]
            for _ in range(ROUNDS)
        ]
        line = f"  {title:32} {statistics.median(one[0] for one in rounds):12,.0f} {figure}"
        if base:
            line += f"  {statistics.median(one[1] for one in rounds):12,.0f}"
            line += f"  {statistics.median(one[0] / one[1] for one in rounds):.2f}"
        print(line, flush=True)


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


def sort(database):
    """What sorting costs and brings a bare COPY: names in turn, and all at random."""
    for title, options in (("in turn", ()), ("at random", ("-r",))):
        rounds, shares = [], []
        for _ in range(ROUNDS):
            one = {"unsorted": bare(database, *options)}
            empty(database)
            figures = tool("copy", "-n", ROWS, "-s", *options, conninfo(database))
            one["sorted"] = figures["rate"]
            shares.append(figures["sorting"] / (figures["seconds"] - figures["sorting"]))
            rounds.append(one)
        report(f"sort, names {title}, {kind(database)}", rounds, "unsorted")
        print(f"  sorting takes {100 * statistics.median(shares):.1f} % of the COPY's own time")


def timescale(database):
    if not database.timescale:
        print("skipped: TimescaleDB is not installed")
        return
    sort(database)
    variants = {
        "daemon": {},
        "daemon, 2 connections": {"database__connections": 2},
        "daemon, direct_compress": DIRECT,
        "daemon, direct_compress, 2": {**DIRECT, "database__connections": 2},
    }
    rounds = []
    for _ in range(ROUNDS):
        one = {"bare COPY": bare(database, rows=MANY_ROWS)}
        for name, conf in variants.items():
            one[name] = through_daemon(database, rows=MANY_ROWS, **conf)
        rounds.append(one)
        print(f"  {one}", flush=True)
    report("TimescaleDB", rounds, "bare COPY", MANY_ROWS)


DIRECT = {"table__direct_compress": "auto"}


def connections(database):
    for title, conf in (("off", {}), ("auto", DIRECT)):
        if conf and not database.timescale:
            continue
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(
                {
                    f"{n} connections": through_daemon(
                        database, rows=MANY_ROWS, database__connections=n, **conf
                    )
                    for n in (1, 2, 4)
                }
            )
        title = f"direct_compress = {title}, {kind(database)}"
        report(title, rounds, "1 connections", MANY_ROWS)


def receiving(database):
    """The collector's own time: from sockets to the spool, with the database away."""
    print("\nCPU seconds of a collector for a million metrics, into its spool")
    for clients, piece in ((1, 65536), (1000, 65536), (1000, 1000), (1000, 1)):
        runs = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
                collector = collector_for(
                    database, directory, database__uri="postgresql://127.0.0.1:9/x"
                ).start()
                before = cpu_seconds(collector.pid)
                load = ("-n", ROWS, "-c", clients, "-p", piece, "-s", 1)
                rate = tool("load", *load, "127.0.0.1", collector.port)["rate"]
                runs.append((cpu_seconds(collector.pid) - before, rate))
                assert collector.stop() == 0
        cpu, rate = (statistics.median(column) for column in zip(*runs))
        print(f"  {clients:5} clients, {piece:5} bytes a piece: {cpu:.2f} s, {rate:10,.0f} metrics/s")


def storing(title, database, servers, **conf):
    runs = []
    for _ in range(ROUNDS):
        empty(database)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            collector = collector_for(database, directory, **conf).start()
            collector.wait_event("database_connected", timeout=60)
            before = [cpu_seconds(pid) for pid in (collector.pid, *servers)]
            rate = tool("load", "-n", MANY_ROWS, "127.0.0.1", collector.port)["rate"]
            after = [cpu_seconds(pid) for pid in (collector.pid, *servers)]
            assert collector.stop() == 0
        runs.append([(a - b) * 1e6 / MANY_ROWS for a, b in zip(after, before)] + [rate])
    *cpu, rate = (statistics.median(column) for column in zip(*runs))
    shown = ", ".join(f"{s:.2f}" for s in cpu)
    print(f"  {title:40} {shown} s, {rate:10,.0f} metrics/s", flush=True)


def capacity(database):
    """CPU time, which says what a rate needs; on many cores only time will tell."""
    if not database.timescale:
        receiving(database)
    print("\nCPU seconds for a million metrics: collector, server")
    server = [database.cluster.process.pid]
    storing(kind(database), database, server)
    if database.timescale:
        storing("the same, direct_compress = auto", database, server, **DIRECT)
    elif has_extension(server_directory(), "citus"):
        capacity_of_citus()


def capacity_of_citus():
    cluster = CitusCluster(server_directory(), **SETTINGS, **{"citus.shard_count": "32"}).start()
    try:
        database = cluster.create_database()
        database.timescale = False
        prepare(database, database__citus="require")
        servers = [node.process.pid for node in cluster.nodes]
        for connections in (1, 2):
            storing(
                f"Citus: + 2 workers, {connections} connections",
                database,
                servers,
                database__citus="require",
                database__connections=connections,
            )
    finally:
        cluster.remove()


REFUSED_ROWS = 100_000
NO = "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN %s RETURN NEW; END$$;"
TRIGGER = NO + "CREATE TRIGGER no BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION no()"
RAISE = (
    "IF NEW.metric_name LIKE 'metric.%%' AND NEW.value::int %% %d = 0 THEN"
    " RAISE EXCEPTION 'no' USING ERRCODE = '45000'; END IF;"
)
REFUSALS = {
    "clean": ("", ""),
    "clean, trigger": (TRIGGER % "", "DROP TRIGGER no ON metrics"),
    "all, CHECK": (
        "ALTER TABLE metrics ADD CONSTRAINT no CHECK (value < 0)",
        "ALTER TABLE metrics DROP CONSTRAINT no",
    ),
    "all, trigger": (TRIGGER % (RAISE % 1), "DROP TRIGGER no ON metrics"),
    "1 in 2, trigger": (TRIGGER % (RAISE % 2), "DROP TRIGGER no ON metrics"),
    "1 in 100, trigger": (TRIGGER % (RAISE % 100), "DROP TRIGGER no ON metrics"),
    "1 in 100,000, trigger": (TRIGGER % (RAISE % 100_000), "DROP TRIGGER no ON metrics"),
    "clean, unique": (
        "CREATE UNIQUE INDEX no ON metrics (time, metric_name)",
        "DROP INDEX no",
    ),
    "all, unique": (
        "CREATE UNIQUE INDEX no ON metrics (time, metric_name);"
        "INSERT INTO metrics SELECT to_timestamp(1750000000) + i * interval '1 us',"
        f" 'metric.' || i % 200, 1 FROM generate_series(0, {REFUSED_ROWS - 1}) i",
        "DROP INDEX no",
    ),
}


def refused_once(database, rule, undo):
    """Seconds that the batch took."""
    empty(database)
    database.execute("TRUNCATE metric_collectord.rejected")
    rows = b"".join(frame(f"metric.{i % 200}", i, T0 + i) for i in range(REFUSED_ROWS))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        collector = collector_for(database, directory, batch__interval=3600).start()
        collector.wait_event("database_connected")
        if rule:
            database.execute(rule)
        try:
            collector.send(rows)
            collector.flush()
            return collector.wait_event("batch_stored", timeout=600)["seconds"]
        finally:
            assert collector.stop() == 0
            if undo:
                database.execute(undo)


def refused(database):
    rounds = []
    for _ in range(ROUNDS):
        rounds.append({name: refused_once(database, *sql) for name, sql in REFUSALS.items()})
    print(f"\nrefused rows, {kind(database)}: seconds, medians of {len(rounds)} rounds, one batch")
    for name in REFUSALS:
        times = [r[name] for r in rounds]
        ratios = [r[name] / r["clean"] for r in rounds]
        print(f"  {name:32} {statistics.median(times):6.3f}   {statistics.median(ratios):5.1f}")


def kind(database):
    return "TimescaleDB" if database.timescale else "PostgreSQL"


def timestamp(event):
    return datetime.strptime(event["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").timestamp()


DRAIN_ROWS = int(os.environ.get("DRAIN_ROWS", 31_000_000))  # 1 GiB of frames


def prepare(database, **conf):
    """The daemon makes the tables."""
    with tempfile.TemporaryDirectory() as directory:
        first = collector_for(database, directory, **conf).start()
        first.wait_event("database_connected", timeout=60)
        first.stop()


SETTINGS = {
    "autovacuum": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
}
TIMESCALE = {
    "shared_preload_libraries": "timescaledb",
    "max_worker_processes": "16",
    "timescaledb.telemetry_level": "off",
}
PLAIN_FIGURES = ["overhead", "ledger", "sync", "spool", "drain", "sort", "capacity", "refused"]
TIMESCALE_FIGURES = ["timescale", "connections", "capacity", "refused"]


def measure(names, timescaledb):
    if not names:
        return
    settings = {**SETTINGS, **(TIMESCALE if timescaledb else {})}
    cluster = Cluster(server_directory(), **settings).start()
    try:
        database = cluster.create_database("bench")
        database.timescale = timescaledb
        prepare(database, **DIRECT)
        for name in names:
            globals()[name](database)
    finally:
        cluster.remove()


def main():
    wanted = sys.argv[2:] or dict.fromkeys(PLAIN_FIGURES + TIMESCALE_FIGURES)
    measure([name for name in wanted if name in PLAIN_FIGURES], False)
    there = has_extension(server_directory(), "timescaledb")
    measure([name for name in wanted if name in TIMESCALE_FIGURES], there)


if __name__ == "__main__":
    main()
