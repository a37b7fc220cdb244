-- Who has paused the relays of this outbox; no row while they work.
CREATE TABLE IF NOT EXISTS outbox_pause (
  id SMALLINT NOT NULL PRIMARY KEY DEFAULT 1 COMMENT 'one row',
  actor VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  reason TEXT CHARACTER SET utf8mb4 NOT NULL,
  at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  CONSTRAINT outbox_pause_one CHECK (id = 1)
) ENGINE = InnoDB;
