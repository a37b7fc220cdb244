ALTER TABLE outbox_lease DROP COLUMN unclean;
