-- How often in a row a bucket's relay has ended without giving it back. Each time halves what the next one reads at
-- once, so that a message that ends its relay stands alone in the end.
ALTER TABLE outbox_lease ADD COLUMN unclean SMALLINT NOT NULL DEFAULT 0;
COMMENT ON COLUMN outbox_lease.unclean IS 'takeovers in a row from a relay that did not give the bucket back';
