-- Messages not yet confirmed by the broker. A pending message is a row; a confirmed one is deleted.
CREATE TABLE outbox (
  -- AUTOINCREMENT, or an emptied table would start at 1 again and copies would take new changes for old.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  -- UUIDv7 made by the writer; what subscribers deduplicate by.
  message_id BLOB NOT NULL CHECK (length(message_id) = 16),
  -- fnv1a64(aggregate_type, 0, aggregate_id) mod outbox_meta.buckets
  bucket SMALLINT NOT NULL CHECK (bucket BETWEEN 0 AND 63),
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  -- JSON object of strings.
  headers BLOB NOT NULL,
  -- JSON text, passed through as it is.
  payload BLOB NOT NULL,
  -- Microseconds since 1970, UTC.
  created_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
);
CREATE INDEX outbox_bucket ON outbox (bucket, id);

-- Which relay may publish which bucket, on the database's clock.
CREATE TABLE outbox_lease (
  bucket SMALLINT NOT NULL PRIMARY KEY,
  -- One relay process; NULL is free.
  owner TEXT,
  -- Rises at each change of owner; fences the settling DELETE.
  epoch BIGINT NOT NULL DEFAULT 0,
  -- An expiry further ahead than this is a clock set back: expired.
  lease_ms BIGINT NOT NULL DEFAULT 0,
  -- Milliseconds since 1970.
  expires_at BIGINT NOT NULL DEFAULT 0
);

-- Relays that are alive, so that each can take its fair share.
CREATE TABLE outbox_relay (
  owner TEXT NOT NULL PRIMARY KEY,
  lease_ms BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);

-- Keys whose first message was refused: waiting for the next attempt, or parked.
CREATE TABLE outbox_key (
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  -- The row that was refused.
  head_id BIGINT NOT NULL,
  attempts INTEGER NOT NULL,
  -- True: nobody tries again until it is replayed or discarded.
  parked BOOLEAN NOT NULL,
  -- When a waiting key is tried again, milliseconds since 1970.
  next_at BIGINT NOT NULL,
  last_error TEXT NOT NULL,
  PRIMARY KEY (aggregate_type, aggregate_id)
);

-- One row: what writers and relays must agree on.
CREATE TABLE outbox_meta (
  id SMALLINT NOT NULL PRIMARY KEY,
  -- Rises when ids may have started again (a restore).
  generation BIGINT NOT NULL,
  buckets SMALLINT NOT NULL,
  bucket_hash TEXT NOT NULL
);

INSERT INTO outbox_meta (id, generation, buckets, bucket_hash) VALUES (1, 1, 64, 'fnv1a64');
INSERT INTO outbox_lease (bucket)
  WITH RECURSIVE b (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n < 63) SELECT n FROM b;
