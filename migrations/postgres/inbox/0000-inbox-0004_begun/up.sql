-- How often in a row a process has ended while it handled a held message: the start of each try is written before it,
-- and its end resets it. A message that ends its process each time is set aside after a few.
ALTER TABLE inbox_held ADD COLUMN begun INTEGER NOT NULL DEFAULT 0, ADD COLUMN begun_at TIMESTAMPTZ NULL;
COMMENT ON COLUMN inbox_held.begun IS 'tries in a row that were begun and whose end is not noted';
COMMENT ON COLUMN inbox_held.begun_at IS 'when the last of them was begun';
