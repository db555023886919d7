"""Grafana's dashboard: the SQL of each panel, as Grafana would send it."""
import datetime
import json
import os
import re

import pytest

from programs import ROOT
from wire import frame

GRAFANA = os.path.join(ROOT, "packaging", "grafana")
INTERVAL = 60  # seconds, what Grafana makes of the width of a panel


def load():
    with open(
        os.path.join(GRAFANA, "dashboards", "metric-collectord.json"), encoding="utf-8"
    ) as file:
        return json.load(file)


DASHBOARD = load()
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}


def expand(sql, now, metrics=()):
    """The macros of Grafana's PostgreSQL data source, without its option for TimescaleDB."""
    quoted = ",".join("'" + name.replace("'", "''") + "'" for name in metrics)
    start, end = ((now + datetime.timedelta(hours=h)).isoformat() for h in (-1, 1))
    for pattern, text in (
        (r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{start}' AND '{end}'"),
        (
            r"\$__timeGroupAlias\((\w+), *\$__interval\)",
            rf'floor(extract(epoch from \1)/{INTERVAL})*{INTERVAL} AS "time"',
        ),
        (r"\$__interval_ms\b", str(INTERVAL * 1000)),
        (r"\$\{metric:sqlstring\}", quoted),
    ):
        sql = re.sub(pattern, text, sql)
    assert "$" not in sql, f"a macro that this test does not know: {sql}"
    return sql


def panel_sql(title):
    (target,) = PANELS[title]["targets"]
    return target["rawSql"]


@pytest.fixture
def ask(start_collector, database):
    """A database with two metrics that are stored, and one that a constraint refuses; Grafana's role reads."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics ADD CONSTRAINT sane CHECK (value <> 13)")
    now = datetime.datetime.now(datetime.timezone.utc)
    now_us = int(now.timestamp() * 1_000_000)
    for name, values in (("it's", [1, 2]), ("load", [3, 5, 13])):
        for i, value in enumerate(values):
            collector.send(frame(name, value, now_us + i))
    database.wait_count(4)
    database.wait_count(1, "metric_collectord.rejected")
    # What packaging/grafana/make-reader.sh does; other tests share the server.
    database.execute(
        "DO $$ BEGIN CREATE ROLE grafana; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    database.execute("GRANT pg_read_all_data TO grafana")

    def run(title, metrics=()):
        connection = database.connect()
        with connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE grafana")
            cursor.execute(expand(panel_sql(title), now, metrics))
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    run.database = database
    run.now = now
    return run


def test_every_panel_is_tested():
    tested = {"Metrics", "Latest values", "Rows stored per second", "Backlog"}
    assert set(PANELS) == tested | {"Behind now", "Rejected rows", "Newest rejected rows"}


def test_panels_use_the_provisioned_data_source():
    with open(
        os.path.join(GRAFANA, "provisioning", "datasources", "metrics.yml"), encoding="utf-8"
    ) as file:
        (uid,) = re.findall(r"^ +uid: (\w+)$", file.read(), re.MULTILINE)
    sources = [panel["datasource"] for panel in DASHBOARD["panels"]]
    sources += [target["datasource"] for p in DASHBOARD["panels"] for target in p["targets"]]
    sources += [variable["datasource"] for variable in DASHBOARD["templating"]["list"]]
    assert {(s["type"], s["uid"]) for s in sources} == {("postgres", uid)}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_metrics_are_picked_by_name(ask):
    (variable,) = DASHBOARD["templating"]["list"]
    assert variable["name"] == "metric"
    assert variable["query"] == variable["definition"]
    assert ask.database.rows(variable["query"]) == [("it's",), ("load",)]


def test_chosen_metrics(ask):
    rows = ask("Metrics", ["it's", "load"])
    assert [(r["metric"], r["value"]) for r in sorted(rows, key=lambda r: r["metric"])] == [
        ("it's", 1.5),
        ("load", 4),
    ]
    assert abs(float(rows[0]["time"]) - ask.now.timestamp()) <= INTERVAL
    assert [r["metric"] for r in ask("Metrics", ["load"])] == ["load"]


def test_latest_values(ask):
    rows = ask("Latest values", ["it's", "load"])
    assert [(r["metric"], r["value"]) for r in rows] == [("it's", 2), ("load", 5)]
    assert abs((rows[0]["time"] - ask.now).total_seconds()) < 1


def test_rows_per_second(ask):
    rows = ask("Rows stored per second")
    assert sum(float(r["rows per second"]) for r in rows) * INTERVAL == pytest.approx(4)


def test_backlog(ask):
    rows = ask("Backlog")
    assert rows and all(0 <= float(r["behind"]) < 3600 for r in rows)
    (row,) = ask("Behind now")
    assert 0 <= float(row["behind"]) < 3600


def test_rejected_rows(ask):
    assert [(r["metric"], r["rows"]) for r in ask("Rejected rows")] == [("constraint", 1)]
    (row,) = ask("Newest rejected rows")
    assert (row["metric"], row["value"], row["reason"], row["sqlstate"]) == (
        "load",
        13,
        "constraint",
        "23514",
    )
