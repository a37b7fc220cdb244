DROP TABLE copy_source;
DROP TABLE copy_deleted;
DROP TABLE inbox_held;
DROP TABLE inbox;
