-- Messages not yet confirmed by the broker. A pending message is a row; a confirmed one is deleted.
CREATE TABLE outbox (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id BYTEA NOT NULL CHECK (octet_length(message_id) = 16),
  bucket SMALLINT NOT NULL CHECK (bucket BETWEEN 0 AND 63),
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL CHECK (octet_length(aggregate_id) <= 255),
  event_type TEXT NOT NULL,
  headers BYTEA NOT NULL,
  payload BYTEA NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_bucket ON outbox (bucket, id);
-- JSON of a few hundred bytes: compressing it costs more than it saves.
ALTER TABLE outbox ALTER COLUMN payload SET STORAGE EXTERNAL;
-- A queue: rows live for milliseconds, so vacuum by count and not by a share of the table.
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
COMMENT ON COLUMN outbox.id IS 'rises in commit order per key; late commits may show lower ids than ones already gone';
COMMENT ON COLUMN outbox.message_id IS 'UUIDv7 made by the writer; what subscribers deduplicate by';
COMMENT ON COLUMN outbox.bucket IS 'fnv1a64(aggregate_type, 0, aggregate_id) mod outbox_meta.buckets';
COMMENT ON COLUMN outbox.headers IS 'JSON object of strings';
COMMENT ON COLUMN outbox.payload IS 'JSON text, passed through as it is';

-- Which relay may publish which bucket, on the database's clock.
CREATE TABLE outbox_lease (
  bucket SMALLINT PRIMARY KEY,
  owner TEXT,
  epoch BIGINT NOT NULL DEFAULT 0,
  lease_ms BIGINT NOT NULL DEFAULT 0,
  expires_at TIMESTAMPTZ NOT NULL DEFAULT '1970-01-02 00:00:00+00'
);
COMMENT ON COLUMN outbox_lease.owner IS 'one relay process; NULL is free';
COMMENT ON COLUMN outbox_lease.epoch IS 'rises at each change of owner; fences the settling DELETE';
COMMENT ON COLUMN outbox_lease.lease_ms IS 'an expiry further ahead than this is a clock set back: expired';

-- Relays that are alive, so that each can take its fair share.
CREATE TABLE outbox_relay (
  owner TEXT PRIMARY KEY,
  lease_ms BIGINT NOT NULL,
  expires_at TIMESTAMPTZ NOT NULL
);

-- Keys whose first message was refused: waiting for the next attempt, or parked.
CREATE TABLE outbox_key (
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  head_id BIGINT NOT NULL,
  attempts INTEGER NOT NULL,
  parked BOOLEAN NOT NULL,
  next_at TIMESTAMPTZ NOT NULL,
  last_error TEXT NOT NULL,
  PRIMARY KEY (aggregate_type, aggregate_id)
);
COMMENT ON COLUMN outbox_key.head_id IS 'the row that was refused';
COMMENT ON COLUMN outbox_key.parked IS 'true: nobody tries again until it is replayed or discarded';
COMMENT ON COLUMN outbox_key.next_at IS 'when a waiting key is tried again';

-- One row: what writers and relays must agree on.
CREATE TABLE outbox_meta (
  id SMALLINT PRIMARY KEY,
  generation BIGINT NOT NULL,
  buckets SMALLINT NOT NULL,
  bucket_hash TEXT NOT NULL
);
COMMENT ON COLUMN outbox_meta.generation IS 'rises when ids may have started again (a restore)';

INSERT INTO outbox_meta (id, generation, buckets, bucket_hash) VALUES (1, 1, 64, 'fnv1a64');
INSERT INTO outbox_lease (bucket) SELECT generate_series(0, 63);
