DROP TRIGGER IF EXISTS outbox_bell ON outbox;
DROP FUNCTION IF EXISTS outbox_bell();
