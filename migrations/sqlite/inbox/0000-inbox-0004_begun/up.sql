-- How often in a row a process has ended while it handled a held message: the start of each try is written before it,
-- and its end resets it. A message that ends its process each time is set aside after a few.
ALTER TABLE inbox_held ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox_held ADD COLUMN begun_at INTEGER NULL;
