#!/bin/sh
# The role that Grafana reads with: everything, and nothing else.  The database's container runs this once,
# when it makes its data directory.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$POSTGRES_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE grafana LOGIN PASSWORD :'password';
GRANT pg_read_all_data TO grafana;
SQL
