-- What people did to messages that the relay had set aside.
CREATE TABLE IF NOT EXISTS outbox_audit (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  actor VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  action VARCHAR(30) CHARACTER SET ascii NOT NULL COMMENT 'replay, discard, pause, resume, resync or generation',
  aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  aggregate_id VARBINARY(255) NOT NULL,
  event_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'NULL: its row was gone',
  message_id BINARY(16) NULL,
  detail TEXT CHARACTER SET utf8mb4 NOT NULL COMMENT 'why it had been set aside'
) ENGINE = InnoDB;
