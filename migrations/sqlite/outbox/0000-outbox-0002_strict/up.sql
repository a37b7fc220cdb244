-- Nothing to make: here one transaction writes at a time, and order is strict. It exists so that versions are
-- the same on all databases.
SELECT 1;
