DROP TABLE IF EXISTS outbox_slot;
