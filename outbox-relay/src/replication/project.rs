//! Rows of the source → rows of a copy.

/// How the columns of each version of the source's table become those of the copy.
#[derive(Debug)]
pub(super) struct Mappings;
