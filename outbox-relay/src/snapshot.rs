//! Rows of a source's tables by SELECT, with the same values that the binary log has.

mod describe;
mod read;

pub use describe::describe;
pub(crate) use describe::describe_whole;
pub(crate) use read::days;
pub use read::{row, select_list};
