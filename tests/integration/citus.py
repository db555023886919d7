"""A Citus cluster: a coordinator and two workers, each a server of its own."""
import psycopg2

from cluster import Cluster
from waiting import wait_until

SETTINGS = {
    "shared_preload_libraries": "citus",
    "max_prepared_transactions": "50",
    "wal_level": "logical",
    "citus.enable_statistics_collection": "off",
    "citus.shard_count": "4",
    "citus.recover_2pc_interval": "1s",
    "citus.node_conninfo": "sslmode=disable",
}


class CitusCluster:
    def __init__(self, bindir, **settings):
        settings = {**SETTINGS, **settings}
        self.coordinator = Cluster(bindir, **settings)
        self.workers = [Cluster(bindir, **settings) for _ in range(2)]

    @property
    def nodes(self):
        return [self.coordinator, *self.workers]

    def start(self):
        for node in self.nodes:
            node.start()
        return self

    def remove(self):
        for node in self.nodes:
            node.remove()

    def create_database(self, workers=True):
        """A database on each node, and the workers known to the coordinator."""
        name = self.coordinator.unused_name()
        for node in self.nodes:
            node.create_database(name).execute("CREATE EXTENSION citus")
        database = self.coordinator.database(name)
        database.rows("SELECT citus_set_coordinator_host('127.0.0.1', %s)", self.coordinator.port)
        for worker in self.workers if workers else []:
            database.rows("SELECT citus_add_node('127.0.0.1', %s)", worker.port)
        return database

    def drop_database(self, database):
        """Citus's own daemon comes back to a database as soon as it is thrown out."""
        for node in self.nodes:
            wait_until(lambda: dropped(node, database.name), 30, f"{database.name} is dropped")


def dropped(node, name):
    try:
        node.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    except psycopg2.errors.ObjectInUse:
        return False
    return True
