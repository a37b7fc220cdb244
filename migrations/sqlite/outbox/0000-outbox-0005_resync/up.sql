-- Requests to send the current state of entities again. The relay's program writes them, the service serves them.
CREATE TABLE outbox_resync (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  aggregate_type TEXT NOT NULL,
  -- JSON array of keys; NULL: all entities, and copies drop what is not among them.
  key_list TEXT,
  -- 0: as fast as it goes.
  rows_per_second INTEGER NOT NULL DEFAULT 0,
  -- requested, begun, scanning, scanned, ended; then done or failed.
  state TEXT NOT NULL DEFAULT 'requested',
  -- How far the scan has got: the last primary key as JSON, or how many keys of the list.
  after_id TEXT NOT NULL DEFAULT '',
  rows_done BIGINT NOT NULL DEFAULT 0,
  -- Keys of the list without a row: copies drop them.
  keys_gone BIGINT NOT NULL DEFAULT 0,
  -- No message of this request has a higher id in outbox.
  last_id BIGINT NOT NULL DEFAULT 0,
  -- The process that serves it, until lease_until.
  owner TEXT,
  -- Microseconds since 1970, UTC, as the other times.
  lease_until BIGINT NOT NULL DEFAULT 0,
  requested_by TEXT NOT NULL,
  requested_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  begun_at BIGINT,
  ended_at BIGINT,
  error TEXT NOT NULL DEFAULT ''
);

-- The aggregates that services offer to send again.
CREATE TABLE outbox_resync_service (
  aggregate_type TEXT NOT NULL PRIMARY KEY,
  seen_at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
);
