"""
The suite's other mode: METRIC_HOSTILE=SECONDS in the environment.

The daemon's role then has settings that suit nobody, its databases a publication for all tables and
other tables of the same names, metrics has two columns more from the moment it is made, and the daemon's
clock is ahead by so many seconds, or behind.  What tests ask themselves they ask as somebody else.
"""
import atexit
import functools
import os
import shutil
import tempfile

from disks import build_shim

ROLE = "hostile"
# What a role may set for itself, and a daemon must not depend on.
SETTINGS = {
    "DateStyle": "'SQL, DMY'",
    "TimeZone": "'Asia/Kolkata'",
    "IntervalStyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "search_path": 'other, "$user", public',
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "'300ms'",
    "lock_timeout": "'1ms'",
    "row_security": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
}
DATABASE = """
CREATE SCHEMA other;
CREATE TABLE other.metrics (id integer, note text);
CREATE TABLE other.metrics_default (id integer);
CREATE TABLE other.batches (id integer);
CREATE VIEW other.metrics_latest AS SELECT 'other' AS metric_name;
CREATE FUNCTION other.change() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    made text;
BEGIN
    FOR made IN
        SELECT object_identity FROM pg_event_trigger_ddl_commands()
        WHERE object_type = 'table' AND object_identity ~ '[.]metrics$'
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS note text,'
            ' ADD COLUMN IF NOT EXISTS twice float8 GENERATED ALWAYS AS (value::float8 * 2) STORED', made);
    END LOOP;
EXCEPTION WHEN undefined_column THEN
    NULL; -- not the table that is meant
END
$$;
CREATE EVENT TRIGGER change ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
    EXECUTE FUNCTION other.change();
"""


@functools.lru_cache
def clock():
    """Seconds, or None where the mode is off."""
    text = os.environ.get("METRIC_HOSTILE")
    return int(text) if text else None


def role():
    return "postgres" if clock() is None else ROLE


def prepare_cluster(cluster):
    """Once; a standby has got it from its primary."""
    if clock() is None or cluster.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"):
        return
    settings = ";".join(f"ALTER ROLE {ROLE} SET {key} = {value}" for key, value in SETTINGS.items())
    cluster.execute(f"CREATE ROLE {ROLE} SUPERUSER LOGIN;{settings}")


def prepare_database(database):
    if clock() is None:
        return
    database.execute(DATABASE)
    # no hypertable can be made of a table that is published
    if "timescaledb" not in database.value("SHOW shared_preload_libraries"):
        database.execute("CREATE PUBLICATION everything FOR ALL TABLES")


@functools.lru_cache
def environment():
    """Of a daemon whose clock is wrong; {} where it is right."""
    if not clock():
        return {}
    directory = tempfile.mkdtemp(prefix="mc-hostile-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    with open(os.path.join(directory, "clock"), "w", encoding="ascii") as file:
        file.write(str(clock()))
    return {"LD_PRELOAD": build_shim(directory), "FAULT_SHIM_DIR": directory}
