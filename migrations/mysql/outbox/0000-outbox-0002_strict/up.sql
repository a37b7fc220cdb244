-- What a writer locks before it records messages of a key whose order no lock on an entity's row keeps: the
-- slot of the key's hash, until its COMMIT. Keys share slots, so that the table is bounded; a shared slot is
-- a wait, never a wrong order. The rows are never written.
CREATE TABLE IF NOT EXISTS outbox_slot (
  slot SMALLINT NOT NULL PRIMARY KEY COMMENT 'fnv1a64(aggregate_type, 0, aggregate_id) mod 1024'
) ENGINE = InnoDB;

-- 32 by 32: servers stop a recursion at 1000 rows.
INSERT IGNORE INTO outbox_slot (slot)
  WITH RECURSIVE b (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n < 31)
  SELECT high.n * 32 + low.n FROM b high CROSS JOIN b low;
