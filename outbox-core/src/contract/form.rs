//! What a Rust type looks like in JSON, read from the type's text, and what a change of it does to a subscriber.

mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

/// The form of a field in a message, as far as the text of its type tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(super) enum Form {
    Text,
    Integer(Integer),
    /// `f64`, or `f32`.
    Float {
        is_double: bool,
    },
    Nullable(Box<Form>),
    List(Box<Form>),
    /// A list of a fixed length, which may be the name of a constant.
    Array(Box<Form>, String),
    Tuple(Vec<Form>),
    Map(Box<Form>, Box<Form>),
    /// Any other type, by its name: two names are two forms.
    Named(String, Vec<Form>),
}

/// A range of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer {
    is_signed: bool,
    bits: u32,
    is_non_zero: bool,
}

/// Recorded as a mark instead of its value.
const REDACTED: &str = "redacted";
/// Recorded as a keyed hash of its value.
const HASHED: &str = "hashed";
/// The derive of events cannot see what serde writes for the field.
const UNSEEN: &str = "?";

impl Form {
    /// Why a subscriber that reads `self` fails once messages have `new`, if it can.
    pub(super) fn broken_by(&self, new: &Self) -> Option<String> {
        if self == new {
            return None;
        }
        match (self, new) {
            (was, is) if was.is_named(UNSEEN) || is.is_named(UNSEEN) => Some(
                "serde attributes hide what the messages hold, so nothing says that subscribers can still read \
                 it"
                .to_owned(),
            ),
            (_, is) if is.is_named(REDACTED) || is.is_named(HASHED) => {
                Some("its value is no longer in the messages".to_owned())
            }
            (was, _) if was.is_named(REDACTED) || was.is_named(HASHED) => Some(format!(
                "a subscriber compares or stores the {}, and gets another value",
                if was.is_named(HASHED) { "hash" } else { "mark" }
            )),
            (Self::Nullable(was), Self::Nullable(is)) => was.broken_by(is),
            (Self::Nullable(was), is) => was.broken_by(is),
            (was, Self::Nullable(_)) => {
                Some(format!("it may be null now, and a subscriber that reads {was} fails on null"))
            }
            (Self::Integer(was), Self::Integer(is)) if was.holds(*is) => None,
            (Self::Integer(_), Self::Integer(_)) => {
                Some(format!("a value that {self} cannot hold fails in a subscriber that reads {self}"))
            }
            (Self::Float { is_double: true }, Self::Float { .. }) => None,
            (Self::Float { .. }, Self::Float { .. }) => {
                Some(format!("a subscriber that reads {self} loses precision"))
            }
            (Self::Float { is_double }, Self::Integer(is)) if is.is_exact_in(*is_double) => None,
            (Self::Float { .. }, Self::Integer(_)) => {
                Some(format!("a subscriber that reads {self} loses precision in large values"))
            }
            (Self::Text, is) if is.is_named("char") => None,
            (Self::List(was), Self::List(is) | Self::Array(is, _)) => was.broken_by(is).map(in_each("element")),
            (Self::Array(was, length), Self::Array(is, new_length)) if length == new_length => {
                was.broken_by(is).map(in_each("element"))
            }
            (Self::Array(_, length), Self::Array(..) | Self::List(_)) => {
                Some(format!("a subscriber that reads {length} elements fails on another number of them"))
            }
            (Self::Tuple(was), Self::Tuple(is)) if was.len() == is.len() => {
                was.iter().zip(is).find_map(|(was, is)| was.broken_by(is)).map(in_each("tuple"))
            }
            (Self::Map(was_key, was), Self::Map(is_key, is)) => was_key
                .broken_by(is_key)
                .map(in_each("key"))
                .or_else(|| was.broken_by(is).map(in_each("value"))),
            _ => Some(format!("a subscriber that reads {self} cannot read {new}")),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        matches!(self, Self::Named(own, arguments) if own == name && arguments.is_empty())
    }
}

fn in_each(part: &str) -> impl FnOnce(String) -> String {
    move |why| format!("in each {part}: {why}")
}

impl Integer {
    /// The integer type of a name, `usize` and `isize` as on a 64-bit machine.
    fn named(name: &str) -> Option<Self> {
        let (name, is_non_zero) = match name.strip_prefix("NonZero") {
            Some(rest) => (rest.to_ascii_lowercase(), true),
            None => (name.to_owned(), false),
        };
        let is_signed = name.starts_with('i');
        let bits = match name.strip_prefix(['i', 'u'])? {
            "8" => 8,
            "16" => 16,
            "32" => 32,
            "64" | "size" => 64,
            "128" => 128,
            _ => return None,
        };
        Some(Self { is_signed, bits, is_non_zero })
    }

    /// Whether it has every value of the other.
    fn holds(self, other: Self) -> bool {
        let has_zero = !self.is_non_zero || other.is_non_zero;
        has_zero
            && match (self.is_signed, other.is_signed) {
                (true, false) => self.bits > other.bits,
                (false, true) => false,
                _ => self.bits >= other.bits,
            }
    }

    /// Whether every value is a float, by the bits of a float's mantissa.
    fn is_exact_in(self, is_double: bool) -> bool {
        self.bits <= if is_double { 53 } else { 24 }
    }
}

impl From<&str> for Form {
    fn from(text: &str) -> Self {
        parse::form(text)
    }
}

impl From<String> for Form {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Form> for String {
    fn from(form: Form) -> Self {
        form.to_string()
    }
}

/// The plainest Rust type of this form; reading it gives the form again.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("String"),
            Self::Integer(Integer { is_signed, bits, is_non_zero }) => {
                let sign = match (is_non_zero, is_signed) {
                    (true, true) => "NonZeroI",
                    (true, false) => "NonZeroU",
                    (false, true) => "i",
                    (false, false) => "u",
                };
                write!(f, "{sign}{bits}")
            }
            Self::Float { is_double } => f.write_str(if *is_double { "f64" } else { "f32" }),
            Self::Nullable(form) => write!(f, "Option<{form}>"),
            Self::List(form) => write!(f, "Vec<{form}>"),
            Self::Array(form, length) => write!(f, "[{form}; {length}]"),
            Self::Tuple(forms) if forms.len() == 1 => write!(f, "({},)", joined(forms)),
            Self::Tuple(forms) => write!(f, "({})", joined(forms)),
            Self::Map(key, value) => write!(f, "HashMap<{key}, {value}>"),
            Self::Named(name, arguments) if arguments.is_empty() => f.write_str(name),
            Self::Named(name, arguments) => write!(f, "{name}<{}>", joined(arguments)),
        }
    }
}

fn joined(forms: &[Form]) -> String {
    forms.iter().map(Form::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
