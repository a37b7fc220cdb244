-- How far each replication has got. The position is written in the transaction of the rows, so both are there or
-- neither.
CREATE TABLE IF NOT EXISTS outbox_replication (
  name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  epoch BIGINT NOT NULL COMMENT 'rises with each process that takes over; fences every write of the one before',
  owner VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL COMMENT 'the process that holds the epoch',
  seq BIGINT NOT NULL DEFAULT 0 COMMENT 'rises with each write of the position; tells whether an unanswered COMMIT happened',
  position MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'all source transactions up to here are in the copies; NULL: not started',
  before_last MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the position before the last transaction, which is read once more to know the source again',
  source_id VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'which server the position is of',
  committed_at DATETIME(6) NULL COMMENT 'UTC, the source''s clock: when the last transaction was committed there',
  checksum INT UNSIGNED NULL COMMENT 'of what the last transaction did, to know it again',
  as_of DATETIME(6) NULL COMMENT 'UTC, the source''s clock: the copies are as the source was then',
  lag_ms BIGINT NULL COMMENT 'how far as_of was behind the source when it was written',
  applied_at DATETIME(6) NULL COMMENT 'UTC, this server''s clock: when the position was last written',
  paused_by VARCHAR(200) CHARACTER SET utf8mb4 NULL COMMENT 'NULL: not paused',
  paused_at DATETIME(6) NULL,
  pause_reason TEXT CHARACTER SET utf8mb4 NULL
) ENGINE = InnoDB;

-- The copies of each replication.
CREATE TABLE IF NOT EXISTS outbox_copy (
  replication VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  copy VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  source_table VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'database.table',
  target_table VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  state VARCHAR(20) CHARACTER SET ascii NOT NULL COMMENT 'copying, ready or held',
  reason TEXT CHARACTER SET utf8mb4 NULL COMMENT 'why it is held and what helps',
  definition TEXT CHARACTER SET utf8mb4 NULL COMMENT 'what it was made by; another one asks for a new copy',
  after_key LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'the last key that is copied, as JSON; NULL: none yet',
  rows_copied BIGINT NOT NULL DEFAULT 0,
  rows_estimated BIGINT NOT NULL DEFAULT 0,
  drifted BIGINT NOT NULL DEFAULT 0 COMMENT 'rows that somebody else had deleted here, found when the source changed them',
  started_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  ready_at DATETIME(6) NULL,
  verified_at DATETIME(6) NULL,
  rows_verified BIGINT NULL,
  differences BIGINT NULL COMMENT 'rows that the last verification found different',
  PRIMARY KEY (replication, copy)
) ENGINE = InnoDB;

-- Rows that could not be applied, with their later images in order. A row leaves by itself once it can be applied.
CREATE TABLE IF NOT EXISTS outbox_aside (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  replication VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  copy VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  key_hash BINARY(32) NOT NULL COMMENT 'SHA-256 of key_text, which may be long',
  key_text LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'the key as JSON',
  row_image LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'the projected row as JSON',
  reason TEXT CHARACTER SET utf8mb4 NOT NULL,
  position MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the row was so at this position of the source',
  at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  attempted_at DATETIME(6) NULL COMMENT 'when it was last tried again',
  KEY outbox_aside_key (replication, copy, key_hash)
) ENGINE = InnoDB;

-- How fresh each copy is, for whoever reads it. Prepared, as MySQL 8 makes no view IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name = 'outbox_freshness') = 0,
  'CREATE VIEW outbox_freshness AS
SELECT c.copy, c.target_table, c.replication,
  c.state = ''ready'' AS ready,
  c.state = ''ready'' AND r.position IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM outbox_aside a WHERE a.replication = c.replication
  ) AS consistent,
  r.as_of,
  r.position AS as_of_position,
  -- The position is written every ten seconds at the latest; what is older than that is late.
  r.lag_ms + GREATEST(0, TIMESTAMPDIFF(MICROSECOND, r.applied_at, UTC_TIMESTAMP(6)) DIV 1000 - 15000) AS lag_ms,
  c.verified_at,
  c.differences,
  (SELECT COUNT(*) FROM outbox_aside a WHERE a.replication = c.replication AND a.copy = c.copy) AS set_aside,
  c.state, c.reason, r.paused_by
FROM outbox_copy c LEFT JOIN outbox_replication r ON r.name = c.replication',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
