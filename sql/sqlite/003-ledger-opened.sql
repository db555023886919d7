-- When the batch was opened, in microseconds since 1970: what no other batch has by chance.  A spool
-- that was copied goes on under the identity and the numbers of the first, and its batches are not
-- those that the ledger knows.  Rows of before do not have it, and are compared without.
ALTER TABLE metric_collectord_batches ADD COLUMN opened INTEGER;
