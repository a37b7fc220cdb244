-- What people did to messages that the relay had set aside.
CREATE TABLE outbox_audit (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  -- Microseconds since 1970, UTC.
  at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
  actor TEXT NOT NULL,
  -- replay or discard
  action TEXT NOT NULL,
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  -- NULL: its row was gone.
  event_type TEXT,
  message_id BLOB,
  -- Why it had been set aside.
  detail TEXT NOT NULL
);
