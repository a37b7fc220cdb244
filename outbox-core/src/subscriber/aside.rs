//! Sets a message aside in `inbox_held`: as it arrived or, where the database has no room for that, what is certain to
//! fit.

use std::hash::Hasher;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::worker::{Worker, millis};
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{self, Failure, HeldMessage, HeldState, Holds};
use crate::message::{CUT, Frame, Headers, Recorded};

/// Every server takes so many bytes in one statement.
const BYTES_ALWAYS_TAKEN: usize = 256 * 1024;
/// What a held message takes besides its headers and its payload.
const BYTES_BESIDES: usize = 64 * 1024;
/// So much is kept of a payload that does not fit.
const BYTES_KEPT: usize = 64 * 1024;
/// So many headers, each of so many characters, are kept of what does not fit.
const HEADERS_KEPT: usize = 50;
const HEADER_CHARS_KEPT: usize = 200;

/// A message that is going to be held.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    pub(super) frame: &'a Frame,
    /// `None` when it did not decode.
    pub(super) recorded: Option<&'a Recorded>,
    pub(super) state: HeldState,
    pub(super) holds: Holds,
    pub(super) attempts: u32,
    pub(super) failure: Option<Failure>,
    /// Of a retry.
    pub(super) next_in: Option<Duration>,
    pub(super) form: Form,
}

/// How much of a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// The beginning of its payload, and texts that every database takes.
    Cut,
    /// The same, and the key as every database takes it.
    Plain,
}

impl Hold<'_> {
    /// Less of it, as it cannot be stored otherwise. Somebody has to decide: what is left cannot be applied.
    fn cut(&mut self, form: Form, why: &str) {
        if self.form == Form::Whole {
            let before = self.failure.take();
            let first = before.as_ref().map(|failure| format!("{}; ", failure.error)).unwrap_or_default();
            let bytes = self.frame.body.len();
            let kept = BYTES_KEPT.min(bytes);
            let error = Error::invalid(format!("{first}only {kept} of {bytes} bytes are kept: {why}"));
            self.failure =
                Some(Failure { causes: before.and_then(|failure| failure.causes), ..Failure::of(&error) });
        }
        (self.state, self.next_in, self.form) = (HeldState::Dead, None, form);
    }
}

impl<C: OutboxConnection> Worker<C> {
    /// Stores a message in the caller's transaction; cut where it is longer than the server takes.
    ///
    /// # Errors
    /// An outage, also where something is missing that an operator has to put there; any other means that the
    /// database refuses this message.
    pub(super) fn hold(&self, connection: &mut C, hold: &mut Hold<'_>) -> Result<()> {
        if hold.form == Form::Whole {
            let bytes = hold.frame.headers.to_json().len() + hold.frame.body.len() + BYTES_BESIDES;
            if let Some(packet) = self.packet_below(connection, bytes)? {
                let why = format!("the database takes {packet} bytes at once (max_allowed_packet)");
                hold.cut(Form::Cut, &why);
            }
        }
        self.store(connection, hold).map_err(|error| {
            let doing = "setting a message aside in inbox_held";
            if error.is_denied() {
                Error::with_source(ErrorKind::Outage, doing, error)
            } else {
                error.context(doing)
            }
        })
    }

    /// Stores the one message that could not be stored among others, or that failed alone, and tells of it. What the
    /// database refuses is cut until it fits, so that it never stops what comes after it.
    ///
    /// # Errors
    /// An outage; also when the database refuses what is certain to fit, which is no message's fault.
    pub(super) fn hold_alone(&self, mut hold: Hold<'_>) -> Result<()> {
        let mut forms = [Form::Cut, Form::Plain].into_iter();
        loop {
            // A new one each time: what a server refuses may cost the connection.
            let held = self.hold(&mut *self.connections.get()?, &mut hold);
            match held {
                Ok(()) => {
                    self.note_held(&hold);
                    return Ok(());
                }
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => match forms.find(|form| *form as u8 > hold.form as u8) {
                    Some(form) => {
                        tracing::warn!(subscriber = self.name, message = hold.frame.message_id, %error, "message does not fit");
                        hold.cut(form, &error.to_string());
                    }
                    None => {
                        return Err(Error::with_source(ErrorKind::Outage, "inbox_held takes nothing", error));
                    }
                },
            }
        }
    }

    /// The most that a statement may have here, if that is less than this.
    fn packet_below(&self, connection: &mut C, bytes: usize) -> Result<Option<usize>> {
        if bytes <= BYTES_ALWAYS_TAKEN {
            return Ok(None);
        }
        Ok(connection.packet_bytes()?.filter(|packet| *packet < bytes))
    }

    /// Whether a connection was lost for messages of so many bytes, which a server ends for statements that are too
    /// long for it. Only a guess: they may be written longer or shorter than they arrived.
    pub(super) fn are_too_long(&self, error: &Error, bytes: usize) -> bool {
        let bytes = 2 * bytes + BYTES_BESIDES;
        if !error.is_outage() || error.is_contention() || bytes <= BYTES_ALWAYS_TAKEN {
            return false;
        }
        // If it cannot be asked, it is an outage indeed.
        let asked =
            self.connections.get().and_then(|mut connection| self.packet_below(&mut connection, bytes));
        matches!(asked, Ok(Some(_)))
    }

    fn store(&self, connection: &mut C, hold: &Hold<'_>) -> Result<()> {
        let Hold { frame, recorded, state, holds, attempts, failure, next_in, form } = hold;
        let is_whole = *form == Form::Whole;
        let texts = [&frame.kind, &frame.routing_key]
            .map(|text| if is_whole { inbox::name(text) } else { inbox::name(&ascii(text)) });
        let [kind, routing_key] = &texts;
        let key = inbox::key(recorded.map_or("", |recorded| recorded.message.key()));
        let key = if *form == Form::Plain { ascii(&key) } else { key.into_owned() };
        let (headers, payload, failure) = if is_whole {
            (frame.headers.to_json(), frame.body.as_slice(), failure.clone())
        } else {
            let failure = failure.as_ref().map(|failure| Failure {
                error: ascii(&failure.error),
                causes: failure.causes.as_deref().map(ascii),
            });
            let kept = frame.body.get(..BYTES_KEPT).unwrap_or(&frame.body);
            (headers_kept(frame).to_json(), kept, failure)
        };
        let held = HeldMessage {
            consumer: &self.name,
            message_id: &identity(frame),
            // Buckets are below 64.
            bucket: recorded.map_or(-1, |recorded| recorded.message.bucket() as i16),
            kind,
            aggregate: recorded.map_or("", |recorded| recorded.message.aggregate()),
            key: &key,
            state: *state,
            holds: *holds,
            attempts: i32::try_from(*attempts).unwrap_or(i32::MAX),
            next_in_ms: next_in.map(millis),
            failure: failure.as_ref(),
            version: recorded
                .map(|recorded| (recorded.source.as_str(), recorded.version.generation, recorded.version.id)),
            routing_key,
            headers: headers.as_bytes(),
            payload,
        };
        Ok(connection.hold_message(&held)?)
    }

    /// What is told of a message once it is held.
    pub(super) fn note_held(&self, hold: &Hold<'_>) {
        let error = hold.failure.as_ref().map_or("", |failure| failure.error.as_str());
        let (kind, message) = (&hold.frame.kind, &hold.frame.message_id);
        match hold.state {
            HeldState::Dead => {
                self.stats.count_set_aside();
                tracing::error!(
                    subscriber = self.name,
                    kind,
                    message,
                    error,
                    "message set aside in inbox_held"
                );
            }
            HeldState::Retry => {
                tracing::warn!(
                    subscriber = self.name,
                    kind,
                    message,
                    error,
                    "message failed, is tried again"
                );
                self.due_in(hold.next_in.unwrap_or_default());
            }
            // Whoever was before it may be done meanwhile.
            _ => self.sweep.store(true, Ordering::Relaxed),
        }
    }
}

/// What is kept of the headers of a message that does not fit, with the length of its payload.
fn headers_kept(frame: &Frame) -> Headers {
    let short = |text: &str| ascii(text).chars().take(HEADER_CHARS_KEPT).collect::<String>();
    let mut headers: Headers =
        frame.headers.iter().take(HEADERS_KEPT).map(|(name, value)| (short(name), short(value))).collect();
    headers.set(CUT, frame.body.len().to_string());
    headers
}

/// A text in any character set that a database may have.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() && c != '\0' { c } else { '?' }).collect()
}

/// The message id as it arrived; of a message without one that every database takes, a hash, so that a redelivery is
/// recognised.
pub(super) fn identity(frame: &Frame) -> String {
    let id = &frame.message_id;
    if (1..=inbox::NAME_COLUMN_BYTES).contains(&id.len())
        && id.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
    {
        return id.clone();
    }
    let mut hash = fnv::FnvHasher::default();
    hash.write(id.as_bytes());
    hash.write(frame.routing_key.as_bytes());
    hash.write(&frame.body);
    format!("fnv1a64:{:016x}", hash.finish())
}
