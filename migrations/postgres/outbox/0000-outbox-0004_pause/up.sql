-- Who has paused the relays of this outbox; no row while they work.
CREATE TABLE outbox_pause (
  id SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
