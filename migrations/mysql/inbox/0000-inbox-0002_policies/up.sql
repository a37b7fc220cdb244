-- What a consumer needs to know of itself: one row each, made when it first needs it.
CREATE TABLE IF NOT EXISTS inbox_consumer (
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  horizon DATETIME(6) NULL COMMENT 'of messages recorded before it the inbox may have forgotten that they were applied',
  upkeep_until DATETIME(6) NULL COMMENT 'one process prunes at a time: until then it is somebody''s turn'
) ENGINE = InnoDB;

-- How far a consumer has come, per source and queue; written at most about once a second.
CREATE TABLE IF NOT EXISTS inbox_progress (
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  source VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  queue SMALLINT NOT NULL COMMENT 'the number in the name of its queue',
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL COMMENT 'of the message that was applied last',
  recorded_at DATETIME(6) NOT NULL COMMENT 'by the clock of the source',
  applied_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (consumer, source, queue)
) ENGINE = InnoDB;

-- Who has paused a consumer, all its processes; no row while it works.
CREATE TABLE IF NOT EXISTS inbox_pause (
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  actor VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  reason TEXT CHARACTER SET utf8mb4 NOT NULL,
  at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB;

-- What people did to messages that a consumer had set aside.
CREATE TABLE IF NOT EXISTS inbox_audit (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  actor VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  action VARCHAR(30) CHARACTER SET ascii NOT NULL COMMENT 'replay, force, discard, pause or resume',
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  message_id VARBINARY(255) NULL COMMENT 'NULL: it was done to the consumer as a whole',
  kind VARBINARY(255) NULL,
  aggregate_id VARBINARY(255) NULL,
  detail TEXT CHARACTER SET utf8mb4 NOT NULL COMMENT 'why it had been set aside, or a reason'
) ENGINE = InnoDB;

-- The begin mark of a resync that a bucket of a copy has seen last; gone with its end mark. The end mark deletes
-- the bucket's rows with an older version, except those in copy_late.
CREATE TABLE IF NOT EXISTS copy_begun (
  copy VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL COMMENT 'of the mark',
  id BIGINT NOT NULL COMMENT 'of the mark',
  begun_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (copy, bucket)
) ENGINE = InnoDB;

-- Versions below a begin mark that were applied after it: of transactions that got their id before the mark and
-- committed after it. The rows with these versions are not stale.
CREATE TABLE IF NOT EXISTS copy_late (
  copy VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  PRIMARY KEY (copy, bucket, generation, id)
) ENGINE = InnoDB;

-- One statement, so that it is done or not done; prepared, as MySQL adds no column IF NOT EXISTS.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'inbox_held' AND column_name = 'sequence') = 0,
  'ALTER TABLE inbox_held
  ADD COLUMN sequence BIGINT NOT NULL AUTO_INCREMENT COMMENT ''the order of arrival'' FIRST,
  ADD UNIQUE KEY inbox_held_sequence (sequence),
  ADD COLUMN aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''''
    COMMENT ''the first word of the kind; empty when the message did not decode'',
  ADD COLUMN holds VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''nothing''
    COMMENT ''what waits behind it: nothing, key (later messages of its key) or all (the consumer)'',
  ADD COLUMN next_at DATETIME(6) NULL COMMENT ''when a retry is due, UTC'',
  ADD COLUMN first_failed_at DATETIME(6) NULL,
  ADD COLUMN last_failed_at DATETIME(6) NULL,
  ADD COLUMN causes TEXT CHARACTER SET utf8mb4 NULL COMMENT ''what the error came from, one in a line, the root last'',
  ADD COLUMN source VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT ''NULL when the message did not decode'',
  ADD COLUMN generation BIGINT NULL,
  ADD COLUMN id BIGINT NULL COMMENT ''with the generation its version'',
  MODIFY COLUMN state VARCHAR(20) NOT NULL COMMENT
    ''retry: tried again at next_at; waiting: behind an earlier message of its key; dead: until somebody decides; an operator sets replay, force (as replay, also behind the horizon) or discard, and the subscriber does it'',
  ADD KEY inbox_held_due (consumer, state, next_at),
  ADD KEY inbox_held_key (consumer, aggregate_id, aggregate_type, sequence),
  ADD KEY inbox_held_holds (consumer, holds)',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
UPDATE inbox_held SET aggregate_type = SUBSTRING_INDEX(kind, '.', 1)
  WHERE aggregate_id <> '';

-- For pruning by age.
SET @outbox_statement = IF(
  (SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'copy_deleted' AND index_name = 'copy_deleted_age') = 0,
  'ALTER TABLE copy_deleted ADD KEY copy_deleted_age (copy, deleted_at)',
  'DO 0');
PREPARE outbox_statement FROM @outbox_statement;
EXECUTE outbox_statement;
DEALLOCATE PREPARE outbox_statement;
