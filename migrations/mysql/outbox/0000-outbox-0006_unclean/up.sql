-- How often in a row a bucket's relay has ended without giving it back. Each time halves what the next one reads at
-- once, so that a message that ends its relay stands alone in the end. Prepared, as MySQL adds no column IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'outbox_lease' AND column_name = 'unclean') = 0,
  'ALTER TABLE outbox_lease ADD COLUMN unclean SMALLINT NOT NULL DEFAULT 0
  COMMENT ''takeovers in a row from a relay that did not give the bucket back''',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
