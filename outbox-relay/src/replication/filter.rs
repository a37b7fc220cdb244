//! The rows that a copy takes.
