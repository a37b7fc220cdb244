//! Domain events: what happened, beside the entity it happened to.

use serde::Serialize;

use crate::error::Result;
use crate::message::Message;

/// A domain event; derive it with `#[derive(OutboxEvent)]`.
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// # fn main() -> Result<()> {
/// use outbox_core::Event;
///
/// let message = Sold { product_id: 7, count: 2 }.message()?;
/// assert_eq!((message.kind().as_str(), message.key()), ("product.sold", "7"));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an outbox event",
    note = "add `#[derive(OutboxEvent)]` and `#[outbox(aggregate = \"…\", event = \"…\", key = field)]` to it"
)]
pub trait Event: Serialize {
    /// The aggregate type it belongs to.
    const AGGREGATE: &'static str;
    /// What happened, second word of the message's kind.
    const EVENT: &'static str;

    /// The key of the aggregate; messages of one key stay in order.
    fn key(&self) -> String;

    /// The event as a message.
    ///
    /// # Errors
    /// `Invalid` when it does not serialize or breaks a bound of [`Message::new`].
    fn message(&self) -> Result<Message> {
        Message::new(Self::AGGREGATE, self.key(), Self::EVENT, serde_json::to_vec(self)?)
    }
}
