-- Begin and end of a resync belong together by its number; the end is noted, and what is stale is then deleted in
-- pieces until the row is taken away.
ALTER TABLE copy_begun
  ADD COLUMN resync BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN ended BOOLEAN NOT NULL DEFAULT FALSE;
COMMENT ON COLUMN copy_begun.resync IS 'the number of the request in outbox_resync of the source';
COMMENT ON COLUMN copy_begun.ended IS 'its end mark has come: what is stale is to be deleted';
-- Of a resync of some keys: which of them were written late.
ALTER TABLE copy_late ADD COLUMN aggregate_id TEXT NOT NULL DEFAULT '';
