//! Keyed hashes of field values: the same value gives the same text everywhere, so copies still join by it,
//! and nobody without the key can tell the value or try guesses.

use std::fmt;
use std::sync::RwLock;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde::ser::Error as _;
use serde_json::Value;
use sha2::Sha256;

use crate::entity::FieldWriter;
use crate::error::{Error, Result};

/// What stands in a message for the value of a field with `#[outbox(redact)]`.
pub const REDACTED: &str = "[redacted]";

/// The shortest key in bytes: half of the hash's length, as RFC 2104 advises at least.
const KEY_BYTES_MIN: usize = 16;

static KEY: RwLock<Option<HashKey>> = RwLock::new(None);

/// Sets the key of this process for fields with `#[outbox(hash)]`; call it once at start, before the first
/// write.
///
/// All services that are to join by hashed values use the same key; a new key breaks the join with what was
/// hashed before. The hash is HMAC-SHA-256 (RFC 2104), in 64 hex digits, of a text as it is and of any other
/// value as its JSON text; `null` stays `null`.
///
/// ```
/// outbox_core::set_hash_key(b"from a secret store, not from code")?;
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Errors
/// `Invalid` when the key has less than 16 bytes.
pub fn set_hash_key(key: &[u8]) -> Result<()> {
    *KEY.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(HashKey::new(key)?);
    Ok(())
}

/// A key of one's own for such hashes, for whoever needs them outside of the fields of a message.
///
#[cfg_attr(
    feature = "derive",
    doc = r#"
```
# use diesel::prelude::*;
# use outbox_core::Outbox;
use outbox_core::{Entity, HashKey, set_hash_key};

# diesel::table! {
#     customer (id) { id -> BigInt, email -> Text, }
# }
# #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
# #[diesel(table_name = customer)]
# #[outbox(aggregate = "customer")]
# struct Customer { id: i64, #[outbox(hash)] email: String }
let secret = b"from a secret store, not from code";
set_hash_key(secret)?;
let recorded = Customer { id: 7, email: "a@example.org".into() }.image()?;

// The same hash, for a search in a copy by an email that somebody has typed in.
let key = HashKey::new(secret)?;
assert_eq!(recorded["email"], key.hex("a@example.org"));
assert_ne!(recorded["email"], HashKey::new(b"another secret, as long")?.hex("a@example.org"));
assert!(HashKey::new(b"too short").is_err());
assert_eq!(format!("{key:?}"), "HashKey(***)");
# Ok::<(), outbox_core::Error>(())
```
"#
)]
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

impl HashKey {
    /// Takes a key.
    ///
    /// # Errors
    /// `Invalid` when it has less than 16 bytes.
    pub fn new(key: &[u8]) -> Result<Self> {
        if key.len() < KEY_BYTES_MIN {
            return Err(Error::invalid(format!(
                "the hash key has {} bytes; use at least {KEY_BYTES_MIN} random ones",
                key.len()
            )));
        }
        Hmac::new_from_slice(key).map(Self).map_err(|e| Error::invalid(e.to_string()))
    }

    /// The HMAC-SHA-256 of a text, in 64 hex digits.
    pub fn hex(&self, text: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for HashKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}

/// Writes the hash of a field's value.
///
/// # Errors
/// When no key is set: the value must not travel as it is.
pub fn put_hashed<T: Serialize>(
    fields: &mut impl FieldWriter,
    name: &'static str,
    value: &T,
) -> serde_json::Result<()> {
    let value = match serde_json::to_value(value)? {
        Value::Null => Value::Null,
        Value::String(text) => Value::from(hash(name, &text)?),
        other => Value::from(hash(name, &other.to_string())?),
    };
    fields.put(name, &value)
}

fn hash(name: &str, text: &str) -> serde_json::Result<String> {
    let key = KEY.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let key = key.as_ref().ok_or_else(|| {
        serde_json::Error::custom(format!(
            "field {name} is recorded hashed and there is no key; call outbox_core::set_hash_key at start"
        ))
    })?;
    Ok(key.hex(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_hash_alike_and_null_stays() {
        let mut image = crate::Image::new();
        assert!(set_hash_key(b"short").is_err());
        // RFC 4231, test case 2, has a key of 4 bytes; this is test case 1.
        set_hash_key(&[0x0b; 20]).unwrap();
        put_hashed(&mut image, "text", &"Hi There").unwrap();
        assert_eq!(image["text"], "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        put_hashed(&mut image, "a", &7).unwrap();
        put_hashed(&mut image, "b", &Some(7_i64)).unwrap();
        assert_eq!(image["a"], image["b"]);
        put_hashed(&mut image, "none", &None::<String>).unwrap();
        assert!(image["none"].is_null());
    }
}
