ALTER TABLE inbox_held DROP COLUMN begun_at;
ALTER TABLE inbox_held DROP COLUMN begun;
