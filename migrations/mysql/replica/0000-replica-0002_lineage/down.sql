ALTER TABLE outbox_replication DROP COLUMN unproven_at;
