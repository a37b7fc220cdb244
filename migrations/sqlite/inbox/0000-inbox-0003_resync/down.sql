ALTER TABLE copy_late DROP COLUMN aggregate_id;
ALTER TABLE copy_begun DROP COLUMN resync;
ALTER TABLE copy_begun DROP COLUMN ended;
