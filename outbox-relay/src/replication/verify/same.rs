//! Whether a copy holds what a projection made.

use crate::change::{ColumnType, Value};

/// How a column's values are compared. A projection makes values of the copy's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparing {
    /// As they are.
    Exactly,
    /// As JSON: what was text in the source is written by the copy's server in its own way.
    AsJson,
}

impl Comparing {
    /// For a column of the copy and the source's column that it is made of.
    pub(super) fn of(source: Option<&ColumnType>, copy: &ColumnType) -> Self {
        let is_written_anew =
            *copy == ColumnType::Json && source.is_some_and(|kind| *kind != ColumnType::Json);
        if is_written_anew { Self::AsJson } else { Self::Exactly }
    }

    /// Whether the copy's value is the projected one.
    pub(super) fn is_same(self, projected: &Value, copy: &Value) -> bool {
        match (self, projected, copy) {
            (Self::AsJson, Value::Json(one) | Value::Text(one), Value::Json(other)) => {
                let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
                one == other || parsed(one).is_some_and(|one| parsed(other) == Some(one))
            }
            _ => projected == copy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writing_of_json_may_differ() {
        let json = |text: &str| Value::Json(text.into());
        let text = Value::Text("{\"a\":2.0}".into());
        assert!(Comparing::AsJson.is_same(&text, &json("{\"a\": 2.0}")));
        assert!(!Comparing::AsJson.is_same(&text, &json("{\"a\": 2}")));
        // A DECIMAL in JSON has become a DOUBLE.
        assert!(!Comparing::Exactly.is_same(&json("1.10"), &json("1.1")));
        assert!(!Comparing::Exactly.is_same(&Value::Double(0.0), &Value::Double(-0.0)));
    }

    #[test]
    fn json_of_the_same_kind_is_compared_as_it_is() {
        let text = ColumnType::Text { charset: "utf8mb4".into(), fixed: false, bytes: 100 };
        assert_eq!(Comparing::of(Some(&ColumnType::Json), &ColumnType::Json), Comparing::Exactly);
        assert_eq!(Comparing::of(Some(&text), &ColumnType::Json), Comparing::AsJson);
        assert_eq!(Comparing::of(Some(&ColumnType::Json), &text), Comparing::Exactly);
    }
}
