-- Messages not yet confirmed by the broker. A pending message is a row; a confirmed one is deleted.
CREATE TABLE IF NOT EXISTS outbox (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY
    COMMENT 'rises in commit order per key; late commits may show lower ids than ones already gone',
  message_id BINARY(16) NOT NULL COMMENT 'UUIDv7 made by the writer; what subscribers deduplicate by',
  bucket SMALLINT NOT NULL COMMENT 'fnv1a64(aggregate_type, 0, aggregate_id) mod outbox_meta.buckets',
  aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  aggregate_id VARBINARY(255) NOT NULL COMMENT 'the key, UTF-8; binary because trailing spaces count',
  event_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  headers BLOB NOT NULL COMMENT 'JSON object of strings',
  payload LONGBLOB NOT NULL COMMENT 'JSON text, passed through as it is',
  created_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  KEY outbox_bucket (bucket, id),
  CONSTRAINT outbox_bucket_range CHECK (bucket BETWEEN 0 AND 63)
) ENGINE = InnoDB;
-- Fails for another table of this name.
SELECT message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload FROM outbox LIMIT 0;

-- Which relay may publish which bucket, on the database's clock.
CREATE TABLE IF NOT EXISTS outbox_lease (
  bucket SMALLINT NOT NULL PRIMARY KEY,
  owner VARBINARY(100) NULL COMMENT 'one relay process; NULL is free',
  epoch BIGINT NOT NULL DEFAULT 0 COMMENT 'rises at each change of owner; fences the settling DELETE',
  lease_ms BIGINT NOT NULL DEFAULT 0 COMMENT 'an expiry further ahead than this is a clock set back: expired',
  expires_at DATETIME(6) NOT NULL DEFAULT '1970-01-02 00:00:00'
) ENGINE = InnoDB;

-- Relays that are alive, so that each can take its fair share.
CREATE TABLE IF NOT EXISTS outbox_relay (
  owner VARBINARY(100) NOT NULL PRIMARY KEY,
  lease_ms BIGINT NOT NULL,
  expires_at DATETIME(6) NOT NULL
) ENGINE = InnoDB;

-- Keys whose first message was refused: waiting for the next attempt, or parked.
CREATE TABLE IF NOT EXISTS outbox_key (
  aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  aggregate_id VARBINARY(255) NOT NULL,
  head_id BIGINT NOT NULL COMMENT 'the row that was refused',
  attempts INT NOT NULL,
  parked BOOLEAN NOT NULL COMMENT 'true: nobody tries again until it is replayed or discarded',
  next_at DATETIME(6) NOT NULL COMMENT 'when a waiting key is tried again',
  last_error TEXT CHARACTER SET utf8mb4 NOT NULL,
  PRIMARY KEY (aggregate_type, aggregate_id)
) ENGINE = InnoDB;

-- One row: what writers and relays must agree on.
CREATE TABLE IF NOT EXISTS outbox_meta (
  id SMALLINT NOT NULL PRIMARY KEY,
  generation BIGINT NOT NULL COMMENT 'rises when ids may have started again (a restore)',
  buckets SMALLINT NOT NULL,
  bucket_hash VARCHAR(20) NOT NULL
) ENGINE = InnoDB;

INSERT IGNORE INTO outbox_meta (id, generation, buckets, bucket_hash) VALUES (1, 1, 64, 'fnv1a64');
INSERT IGNORE INTO outbox_lease (bucket)
  WITH RECURSIVE b (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n < 63) SELECT n FROM b;
