-- What a consumer needs to know of itself: one row each, made when it first needs it. Times here and below are
-- microseconds since 1970, UTC.
CREATE TABLE inbox_consumer (
  consumer TEXT NOT NULL PRIMARY KEY,
  -- Of messages recorded before it the inbox may have forgotten that they were applied.
  horizon BIGINT,
  -- One process prunes at a time: until then it is somebody's turn.
  upkeep_until BIGINT
);

-- How far a consumer has come, per source and queue; written at most about once a second.
CREATE TABLE inbox_progress (
  consumer TEXT NOT NULL,
  source TEXT NOT NULL,
  -- The number in the name of its queue.
  queue SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  -- Of the message that was applied last.
  id BIGINT NOT NULL,
  -- By the clock of the source.
  recorded_at BIGINT NOT NULL,
  applied_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  PRIMARY KEY (consumer, source, queue)
);

-- Who has paused a consumer, all its processes; no row while it works.
CREATE TABLE inbox_pause (
  consumer TEXT NOT NULL PRIMARY KEY,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
);

-- What people did to messages that a consumer had set aside.
CREATE TABLE inbox_audit (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  actor TEXT NOT NULL,
  -- replay, force, discard, pause or resume
  action TEXT NOT NULL,
  consumer TEXT NOT NULL,
  -- NULL: it was done to the consumer as a whole.
  message_id TEXT,
  kind TEXT,
  aggregate_id TEXT,
  -- Why it had been set aside, or a reason.
  detail TEXT NOT NULL
);

-- The begin mark of a resync that a bucket of a copy has seen last; gone with its end mark. The end mark deletes
-- the bucket's rows with an older version, except those in copy_late.
CREATE TABLE copy_begun (
  copy TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  -- With the id the version of the mark.
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  begun_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  PRIMARY KEY (copy, bucket)
);

-- Versions below a begin mark that were applied after it: of transactions that got their id before the mark and
-- committed after it. The rows with these versions are not stale.
CREATE TABLE copy_late (
  copy TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  PRIMARY KEY (copy, bucket, generation, id)
) WITHOUT ROWID;

-- SQLite adds no AUTOINCREMENT to a table that is there.
ALTER TABLE inbox_held RENAME TO inbox_held_before;
CREATE TABLE inbox_held (
  -- The order of arrival.
  sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  consumer TEXT NOT NULL,
  -- As it arrived; of a message without one, a hash of its body.
  message_id TEXT NOT NULL,
  -- -1 when the message did not decode.
  bucket SMALLINT NOT NULL,
  kind TEXT NOT NULL,
  -- The first word of the kind; empty when the message did not decode.
  aggregate_type TEXT NOT NULL DEFAULT '',
  -- Empty when the message did not decode.
  aggregate_id TEXT NOT NULL,
  -- retry: tried again at next_at; waiting: behind an earlier message of its key; dead: until somebody decides;
  -- an operator sets replay, force (as replay, also behind the horizon) or discard, and the subscriber does it.
  state TEXT NOT NULL,
  -- What waits behind it: nothing, key (later messages of its key) or all (the consumer).
  holds TEXT NOT NULL DEFAULT 'nothing',
  attempts INTEGER NOT NULL,
  -- When a retry is due.
  next_at BIGINT,
  first_failed_at BIGINT,
  last_failed_at BIGINT,
  error TEXT NOT NULL,
  -- What the error came from, one in a line, the root last.
  causes TEXT,
  -- NULL when the message did not decode.
  source TEXT,
  -- With the id its version.
  generation BIGINT,
  id BIGINT,
  routing_key TEXT NOT NULL,
  headers BLOB NOT NULL,
  payload BLOB NOT NULL,
  held_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  UNIQUE (consumer, message_id)
);
INSERT INTO inbox_held
  (consumer, message_id, bucket, kind, aggregate_type, aggregate_id, state, attempts, error, routing_key, headers,
   payload, held_at)
  SELECT consumer, message_id, bucket, kind,
    CASE WHEN aggregate_id <> '' AND instr(kind, '.') > 1 THEN substr(kind, 1, instr(kind, '.') - 1) ELSE '' END,
    aggregate_id, state, attempts, error, routing_key, headers, payload, held_at
  FROM inbox_held_before ORDER BY held_at, message_id;
DROP TABLE inbox_held_before;
CREATE INDEX inbox_held_due ON inbox_held (consumer, state, next_at);
CREATE INDEX inbox_held_key ON inbox_held (consumer, aggregate_id, aggregate_type, sequence);
CREATE INDEX inbox_held_holds ON inbox_held (consumer, holds);

-- For pruning by age.
CREATE INDEX copy_deleted_age ON copy_deleted (copy, deleted_at);
