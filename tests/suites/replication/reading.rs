//! Transactions: whole, in order, each once.
