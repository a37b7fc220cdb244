-- When the source could not be proved to have the history that the copies were made of, as it had deleted the log with
-- the transaction by which it is known again. Prepared, as MySQL adds no column IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'outbox_replication' AND column_name = 'unproven_at') = 0,
  'ALTER TABLE outbox_replication ADD COLUMN unproven_at DATETIME(6) NULL
  COMMENT ''UTC, this server''''s clock: since then only copies that were verified or made later are known to be of the source''''s history''',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
