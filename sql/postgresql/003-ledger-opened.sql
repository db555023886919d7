-- What no other batch has by chance: a spool that was copied goes on under the identity and the
-- numbers of the first, and its batches are not those that the ledger knows.

-- Rows of before do not have it, and are compared without.
ALTER TABLE metric_collectord.batches ADD COLUMN IF NOT EXISTS opened bigint;
COMMENT ON COLUMN metric_collectord.batches.opened IS
	'when the batch was opened: microseconds since 1970';
