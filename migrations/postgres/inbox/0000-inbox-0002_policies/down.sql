DROP INDEX copy_deleted_age;
DROP INDEX inbox_held_due;
DROP INDEX inbox_held_key;
DROP INDEX inbox_held_holds;
ALTER TABLE inbox_held
  DROP COLUMN sequence, DROP COLUMN aggregate_type, DROP COLUMN holds, DROP COLUMN next_at,
  DROP COLUMN first_failed_at, DROP COLUMN last_failed_at, DROP COLUMN causes, DROP COLUMN source,
  DROP COLUMN generation, DROP COLUMN id;
COMMENT ON COLUMN inbox_held.state IS 'dead: until somebody decides';
DROP TABLE copy_late;
DROP TABLE copy_begun;
DROP TABLE inbox_audit;
DROP TABLE inbox_pause;
DROP TABLE inbox_progress;
DROP TABLE inbox_consumer;
