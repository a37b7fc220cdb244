-- Messages that a consumer has applied, written in the transaction of their effect.
CREATE TABLE IF NOT EXISTS inbox (
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  message_id BINARY(16) NOT NULL,
  applied_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (consumer, message_id)
) ENGINE = InnoDB;
-- Fails for another table of this name.
SELECT consumer, message_id, applied_at FROM inbox LIMIT 0;

-- Messages set aside, as they arrived, with the reason.
CREATE TABLE IF NOT EXISTS inbox_held (
  consumer VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  message_id VARBINARY(255) NOT NULL COMMENT 'as it arrived; of a message without one, a hash of its body',
  bucket SMALLINT NOT NULL COMMENT '-1 when the message did not decode',
  kind VARBINARY(255) NOT NULL,
  aggregate_id VARBINARY(255) NOT NULL COMMENT 'empty when the message did not decode',
  state VARCHAR(20) NOT NULL COMMENT 'dead: until somebody decides',
  attempts INT NOT NULL,
  error TEXT CHARACTER SET utf8mb4 NOT NULL,
  routing_key VARBINARY(255) NOT NULL,
  headers MEDIUMBLOB NOT NULL COMMENT 'JSON object of strings',
  payload LONGBLOB NOT NULL,
  held_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (consumer, message_id)
) ENGINE = InnoDB;

-- Versions at which keys of copies were deleted, so that a late older change cannot bring a row back.
CREATE TABLE IF NOT EXISTS copy_deleted (
  copy VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  aggregate_id VARBINARY(255) NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  deleted_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (copy, aggregate_id)
) ENGINE = InnoDB;

-- The one outbox that a copy follows; versions of two outboxes cannot be compared.
CREATE TABLE IF NOT EXISTS copy_source (
  copy VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  source VARCHAR(100) NOT NULL
) ENGINE = InnoDB;
