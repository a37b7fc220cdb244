DROP INDEX copy_deleted_age;
ALTER TABLE inbox_held RENAME TO inbox_held_after;
CREATE TABLE inbox_held (
  consumer TEXT NOT NULL,
  -- As it arrived; of a message without one, a hash of its body.
  message_id TEXT NOT NULL,
  -- -1 when the message did not decode.
  bucket SMALLINT NOT NULL,
  kind TEXT NOT NULL,
  -- Empty when the message did not decode.
  aggregate_id TEXT NOT NULL,
  -- dead: until somebody decides.
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  error TEXT NOT NULL,
  routing_key TEXT NOT NULL,
  headers BLOB NOT NULL,
  payload BLOB NOT NULL,
  held_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  PRIMARY KEY (consumer, message_id)
);
INSERT INTO inbox_held
  (consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, routing_key, headers, payload, held_at)
  SELECT consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, routing_key, headers, payload,
    held_at
  FROM inbox_held_after;
DROP TABLE inbox_held_after;
DROP TABLE copy_late;
DROP TABLE copy_begun;
DROP TABLE inbox_audit;
DROP TABLE inbox_pause;
DROP TABLE inbox_progress;
DROP TABLE inbox_consumer;
