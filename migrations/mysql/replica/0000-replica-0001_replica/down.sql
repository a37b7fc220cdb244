DROP VIEW outbox_freshness;
DROP TABLE outbox_aside;
DROP TABLE outbox_copy;
DROP TABLE outbox_replication;
