-- What the janitor knows of its clock.  SQLite has no clock of its own, and what is old is deleted:
-- so after a jump nothing is, for a day.  One row.
CREATE TABLE metric_collectord_clock (
	one      INTEGER PRIMARY KEY CHECK (one = 1),
	seen_at  TEXT    NOT NULL, -- what the clock showed, some minutes ago at the most
	boot     TEXT    NOT NULL, -- the system's run at that time; '' where it has no name
	boot_ms  INTEGER NOT NULL, -- ... and how long it had been running by then
	pause_ms INTEGER NOT NULL, -- of running, until something is deleted again; 0: no pause
	stale    INTEGER NOT NULL, -- 1: that is for want of fresh rows alone
	trusted  INTEGER NOT NULL  -- 1: fresh rows agreed with the clock, or a pause is over
);
