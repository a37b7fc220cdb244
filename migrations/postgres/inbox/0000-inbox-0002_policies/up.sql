-- What a consumer needs to know of itself: one row each, made when it first needs it.
CREATE TABLE inbox_consumer (
  consumer TEXT NOT NULL PRIMARY KEY,
  horizon TIMESTAMPTZ,
  upkeep_until TIMESTAMPTZ
);
COMMENT ON COLUMN inbox_consumer.horizon IS
  'of messages recorded before it the inbox may have forgotten that they were applied';
COMMENT ON COLUMN inbox_consumer.upkeep_until IS
  'one process prunes at a time: until then it is somebody''s turn';

-- How far a consumer has come, per source and queue; written at most about once a second.
CREATE TABLE inbox_progress (
  consumer TEXT NOT NULL,
  source TEXT NOT NULL,
  queue SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  recorded_at TIMESTAMPTZ NOT NULL,
  applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (consumer, source, queue)
);
COMMENT ON COLUMN inbox_progress.queue IS 'the number in the name of its queue';
COMMENT ON COLUMN inbox_progress.id IS 'of the message that was applied last';
COMMENT ON COLUMN inbox_progress.recorded_at IS 'by the clock of the source';

-- Who has paused a consumer, all its processes; no row while it works.
CREATE TABLE inbox_pause (
  consumer TEXT NOT NULL PRIMARY KEY,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

-- What people did to messages that a consumer had set aside.
CREATE TABLE inbox_audit (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  consumer TEXT NOT NULL,
  message_id TEXT,
  kind TEXT,
  aggregate_id TEXT,
  detail TEXT NOT NULL
);
COMMENT ON COLUMN inbox_audit.action IS 'replay, force, discard, pause or resume';
COMMENT ON COLUMN inbox_audit.message_id IS 'NULL: it was done to the consumer as a whole';
COMMENT ON COLUMN inbox_audit.detail IS 'why it had been set aside, or a reason';

-- The begin mark of a resync that a bucket of a copy has seen last; gone with its end mark. The end mark deletes
-- the bucket's rows with an older version, except those in copy_late.
CREATE TABLE copy_begun (
  copy TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  begun_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (copy, bucket)
);
COMMENT ON COLUMN copy_begun.id IS 'with the generation the version of the mark';

-- Versions below a begin mark that were applied after it: of transactions that got their id before the mark and
-- committed after it. The rows with these versions are not stale.
CREATE TABLE copy_late (
  copy TEXT NOT NULL,
  bucket SMALLINT NOT NULL,
  generation BIGINT NOT NULL,
  id BIGINT NOT NULL,
  PRIMARY KEY (copy, bucket, generation, id)
);

ALTER TABLE inbox_held
  ADD COLUMN sequence BIGINT GENERATED ALWAYS AS IDENTITY,
  ADD COLUMN aggregate_type TEXT NOT NULL DEFAULT '',
  ADD COLUMN holds TEXT NOT NULL DEFAULT 'nothing',
  ADD COLUMN next_at TIMESTAMPTZ,
  ADD COLUMN first_failed_at TIMESTAMPTZ,
  ADD COLUMN last_failed_at TIMESTAMPTZ,
  ADD COLUMN causes TEXT,
  ADD COLUMN source TEXT,
  ADD COLUMN generation BIGINT,
  ADD COLUMN id BIGINT;
COMMENT ON COLUMN inbox_held.sequence IS 'the order of arrival';
COMMENT ON COLUMN inbox_held.state IS
  'retry: tried again at next_at; waiting: behind an earlier message of its key; dead: until somebody decides; '
  'an operator sets replay, force (as replay, also behind the horizon) or discard, and the subscriber does it';
COMMENT ON COLUMN inbox_held.aggregate_type IS
  'the first word of the kind; empty when the message did not decode';
COMMENT ON COLUMN inbox_held.holds IS
  'what waits behind it: nothing, key (later messages of its key) or all (the consumer)';
COMMENT ON COLUMN inbox_held.next_at IS 'when a retry is due';
COMMENT ON COLUMN inbox_held.causes IS 'what the error came from, one in a line, the root last';
COMMENT ON COLUMN inbox_held.source IS 'NULL when the message did not decode';
COMMENT ON COLUMN inbox_held.id IS 'with the generation its version';
CREATE INDEX inbox_held_due ON inbox_held (consumer, state, next_at);
CREATE INDEX inbox_held_key ON inbox_held (consumer, aggregate_id, aggregate_type, sequence);
CREATE INDEX inbox_held_holds ON inbox_held (consumer, holds);
UPDATE inbox_held SET aggregate_type = split_part(kind, '.', 1)
  WHERE aggregate_id <> '';

-- For pruning by age.
CREATE INDEX copy_deleted_age ON copy_deleted (copy, deleted_at);
