DROP TABLE outbox_resync_service;
DROP TABLE outbox_resync;
