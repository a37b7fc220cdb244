ALTER TABLE inbox_held DROP COLUMN begun, DROP COLUMN begun_at;
