ALTER TABLE copy_deleted DROP KEY copy_deleted_age;
ALTER TABLE inbox_held
  DROP KEY inbox_held_due, DROP KEY inbox_held_key, DROP KEY inbox_held_holds, DROP KEY inbox_held_sequence,
  DROP COLUMN sequence, DROP COLUMN aggregate_type, DROP COLUMN holds, DROP COLUMN next_at,
  DROP COLUMN first_failed_at, DROP COLUMN last_failed_at, DROP COLUMN causes, DROP COLUMN source,
  DROP COLUMN generation, DROP COLUMN id,
  MODIFY COLUMN state VARCHAR(20) NOT NULL COMMENT 'dead: until somebody decides';
DROP TABLE copy_late;
DROP TABLE copy_begun;
DROP TABLE inbox_audit;
DROP TABLE inbox_pause;
DROP TABLE inbox_progress;
DROP TABLE inbox_consumer;
