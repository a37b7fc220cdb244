//! The consumer's record of what it has applied, and of what it has set aside.

/// Why a message stands in `inbox_held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeldState {
    /// Set aside with its error until somebody decides.
    Dead,
}

impl HeldState {
    /// The text in the column `state`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
        }
    }
}

/// A row of `inbox_held`: a message as it arrived, with the reason why it was set aside.
#[derive(Debug)]
#[doc(hidden)]
pub struct HeldMessage<'a> {
    pub consumer: &'a str,
    /// The property as it arrived, which may be no UUID.
    pub message_id: &'a str,
    /// -1 when it did not decode.
    pub bucket: i16,
    pub kind: &'a str,
    /// Empty when it did not decode.
    pub key: &'a str,
    pub state: HeldState,
    pub attempts: i32,
    pub error: &'a str,
    pub routing_key: &'a str,
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}
