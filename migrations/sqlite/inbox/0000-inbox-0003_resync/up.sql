-- Begin and end of a resync belong together by its number, which is that of the request in outbox_resync of the
-- source; the end is noted, and what is stale is then deleted in pieces until the row is taken away.
ALTER TABLE copy_begun ADD COLUMN resync BIGINT NOT NULL DEFAULT 0;
ALTER TABLE copy_begun ADD COLUMN ended BOOLEAN NOT NULL DEFAULT FALSE;
-- Of a resync of some keys: which of them were written late.
ALTER TABLE copy_late ADD COLUMN aggregate_id TEXT NOT NULL DEFAULT '';
