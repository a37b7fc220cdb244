-- What people did to messages that the relay had set aside.
CREATE TABLE outbox_audit (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  aggregate_type TEXT NOT NULL,
  aggregate_id TEXT NOT NULL,
  event_type TEXT,
  message_id BYTEA,
  detail TEXT NOT NULL
);
COMMENT ON COLUMN outbox_audit.action IS 'replay, discard, pause, resume, resync or generation';
COMMENT ON COLUMN outbox_audit.event_type IS 'NULL: its row was gone';
COMMENT ON COLUMN outbox_audit.detail IS 'why it had been set aside';
