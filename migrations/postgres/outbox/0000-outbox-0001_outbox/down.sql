DROP TABLE outbox_meta;
DROP TABLE outbox_key;
DROP TABLE outbox_relay;
DROP TABLE outbox_lease;
DROP TABLE outbox;
