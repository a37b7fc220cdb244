-- Messages that a consumer has applied, written in the transaction of their effect.
CREATE TABLE inbox (
  consumer TEXT NOT NULL,
  message_id BLOB NOT NULL,
  -- Microseconds since 1970, UTC.
  applied_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  PRIMARY KEY (consumer, message_id)
) WITHOUT ROWID;

-- Messages set aside, as they arrived, with the reason.
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

-- Versions at which keys of copies were deleted, so that a late older change cannot bring a row back.
CREATE TABLE copy_deleted (
  copy TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  deleted_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  PRIMARY KEY (copy, aggregate_id)
);

-- The one outbox that a copy follows; versions of two outboxes cannot be compared.
CREATE TABLE copy_source (
  copy TEXT NOT NULL PRIMARY KEY,
  source TEXT NOT NULL
);
