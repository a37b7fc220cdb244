-- Requests to send the current state of entities again. The relay's program writes them, the service serves them.
CREATE TABLE outbox_resync (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  aggregate_type TEXT NOT NULL,
  key_list TEXT,
  rows_per_second INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'requested',
  after_id TEXT NOT NULL DEFAULT '',
  rows_done BIGINT NOT NULL DEFAULT 0,
  keys_gone BIGINT NOT NULL DEFAULT 0,
  last_id BIGINT NOT NULL DEFAULT 0,
  owner TEXT,
  lease_until TIMESTAMPTZ NOT NULL DEFAULT '1970-01-02 00:00:00+00',
  requested_by TEXT NOT NULL,
  requested_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  begun_at TIMESTAMPTZ,
  ended_at TIMESTAMPTZ,
  error TEXT NOT NULL DEFAULT ''
);
COMMENT ON COLUMN outbox_resync.key_list IS 'JSON array of keys; NULL: all entities, and copies drop what is not among them';
COMMENT ON COLUMN outbox_resync.rows_per_second IS '0: as fast as it goes';
COMMENT ON COLUMN outbox_resync.state IS 'requested, begun, scanning, scanned, ended; then done or failed';
COMMENT ON COLUMN outbox_resync.after_id IS 'how far the scan has got: the last primary key as JSON, or how many keys of the list';
COMMENT ON COLUMN outbox_resync.keys_gone IS 'keys of the list without a row: copies drop them';
COMMENT ON COLUMN outbox_resync.last_id IS 'no message of this request has a higher id in outbox';
COMMENT ON COLUMN outbox_resync.owner IS 'the process that serves it, until lease_until';

-- The aggregates that services offer to send again.
CREATE TABLE outbox_resync_service (
  aggregate_type TEXT PRIMARY KEY,
  seen_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
