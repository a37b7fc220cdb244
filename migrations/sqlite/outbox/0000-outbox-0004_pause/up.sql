-- Who has paused the relays of this outbox; no row while they work.
CREATE TABLE outbox_pause (
  id INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (id = 1),
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  -- Microseconds since 1970, UTC.
  at BIGINT NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))
);
