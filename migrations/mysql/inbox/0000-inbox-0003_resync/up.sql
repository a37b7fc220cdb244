-- Begin and end of a resync belong together by its number; the end is noted, and what is stale is then deleted in
-- pieces until the row is taken away. Prepared, as MySQL adds no column IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'copy_begun' AND column_name = 'resync') = 0,
  'ALTER TABLE copy_begun
  ADD COLUMN resync BIGINT NOT NULL DEFAULT 0 COMMENT ''the number of the request in outbox_resync of the source'',
  ADD COLUMN ended BOOLEAN NOT NULL DEFAULT FALSE COMMENT ''its end mark has come: what is stale is to be deleted''',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;

SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'copy_late' AND column_name = 'aggregate_id') = 0,
  'ALTER TABLE copy_late
  ADD COLUMN aggregate_id VARBINARY(255) NOT NULL DEFAULT '''' COMMENT ''of a resync of some keys: which of them were written late''',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
