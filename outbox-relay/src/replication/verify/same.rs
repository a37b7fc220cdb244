//! Whether a copy holds what a projection made.

use crate::change::Value;

/// Whether the copy's value is the projected one. A projection makes values of the copy's types; only JSON that was
/// text before is written by the copy's server in its own way.
pub(super) fn is_same(projected: &Value, copy: &Value) -> bool {
    match (projected, copy) {
        (Value::Json(one) | Value::Text(one), Value::Json(other)) => one == other || is_same_json(one, other),
        _ => projected == copy,
    }
}

fn is_same_json(one: &str, other: &str) -> bool {
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    parsed(one).is_some_and(|one| parsed(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writing_of_json_may_differ() {
        let json = |text: &str| Value::Json(text.into());
        assert!(is_same(&Value::Text("{\"a\":2.0}".into()), &json("{\"a\": 2.0}")));
        assert!(!is_same(&json("{\"a\": 2.0}"), &json("{\"a\": 2}")));
        assert!(!is_same(&Value::Text("{\"a\":2.0}".into()), &Value::Text("{\"a\": 2.0}".into())));
        assert!(!is_same(&Value::Double(0.0), &Value::Double(-0.0)));
    }
}
