-- Nothing to make: here strict order is kept by advisory locks of the transaction. It exists so that versions
-- are the same on all databases, and selects because a script without a statement is refused.
SELECT 1;
