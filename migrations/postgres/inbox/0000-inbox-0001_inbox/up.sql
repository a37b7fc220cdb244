-- Messages that a consumer has applied, written in the transaction of their effect.
CREATE TABLE inbox (
  consumer TEXT NOT NULL,
  message_id BYTEA NOT NULL,
  applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer, message_id)
);

-- Messages set aside, as they arrived, with the reason.
CREATE TABLE inbox_held (
  consumer TEXT NOT NULL,
  message_id TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  kind TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  error TEXT NOT NULL,
  routing_key TEXT NOT NULL,
  headers BYTEA NOT NULL,
  payload BYTEA NOT NULL,
  held_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer, message_id)
);
COMMENT ON COLUMN inbox_held.message_id IS 'as it arrived; of a message without one, a hash of its body';
COMMENT ON COLUMN inbox_held.bucket IS '-1 when the message did not decode';
COMMENT ON COLUMN inbox_held.aggregate_id IS 'empty when the message did not decode';
COMMENT ON COLUMN inbox_held.state IS 'dead: until somebody decides';

-- Versions at which keys of copies were deleted, so that a late older change cannot bring a row back.
CREATE TABLE copy_deleted (
  copy TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  deleted_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (copy, aggregate_id)
);

-- The one outbox that a copy follows; versions of two outboxes cannot be compared.
CREATE TABLE copy_source (
  copy TEXT NOT NULL PRIMARY KEY,
  source TEXT NOT NULL
);
