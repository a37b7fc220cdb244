-- How often in a row a process has ended while it handled a held message: the start of each try is written before it,
-- and its end resets it. A message that ends its process each time is set aside after a few. Prepared, as MySQL adds no
-- column IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'inbox_held' AND column_name = 'begun') = 0,
  'ALTER TABLE inbox_held
  ADD COLUMN begun INT NOT NULL DEFAULT 0 COMMENT ''tries in a row that were begun and whose end is not noted'',
  ADD COLUMN begun_at DATETIME(6) NULL COMMENT ''when the last of them was begun, UTC''',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
