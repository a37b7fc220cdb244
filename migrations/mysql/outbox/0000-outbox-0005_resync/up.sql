-- Requests to send the current state of entities again. The relay's program writes them, the service serves them.
CREATE TABLE IF NOT EXISTS outbox_resync (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  key_list LONGTEXT CHARACTER SET utf8mb4 NULL COMMENT 'JSON array of keys; NULL: all entities, and copies drop what is not among them',
  rows_per_second INT NOT NULL DEFAULT 0 COMMENT '0: as fast as it goes',
  state VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT 'requested' COMMENT 'requested, begun, scanning, scanned, ended; then done or failed',
  after_id TEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('') COMMENT 'how far the scan has got: the last primary key as JSON, or how many keys of the list',
  rows_done BIGINT NOT NULL DEFAULT 0,
  keys_gone BIGINT NOT NULL DEFAULT 0 COMMENT 'keys of the list without a row: copies drop them',
  last_id BIGINT NOT NULL DEFAULT 0 COMMENT 'no message of this request has a higher id in outbox',
  owner VARCHAR(200) CHARACTER SET utf8mb4 NULL COMMENT 'the process that serves it, until lease_until',
  lease_until DATETIME(6) NOT NULL DEFAULT '1970-01-02 00:00:00',
  requested_by VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  requested_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  begun_at DATETIME(6) NULL,
  ended_at DATETIME(6) NULL,
  error TEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('')
) ENGINE = InnoDB;

-- The aggregates that services offer to send again.
CREATE TABLE IF NOT EXISTS outbox_resync_service (
  aggregate_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  seen_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB;
