-- The doorbell of `mode = "tail"`: an INSERT into outbox tells the relays that listen, once per transaction
-- and when it commits. It is no migration of everyone: NOTIFY takes one lock of the whole server from before
-- COMMIT until after it, so transactions that ring commit one after the other.
CREATE OR REPLACE FUNCTION outbox_bell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.pg_notify('outbox', '');
  RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS outbox_bell ON outbox;
CREATE TRIGGER outbox_bell AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_bell();
