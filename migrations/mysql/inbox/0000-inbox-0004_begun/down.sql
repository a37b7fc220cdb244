ALTER TABLE inbox_held DROP COLUMN begun;
