use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroI64, NonZeroU8};

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// What the text of a type is read as.
fn read(text: &str) -> String {
    Form::from(text).to_string()
}

fn passes(was: &str, is: &str) -> bool {
    Form::from(was).broken_by(&is.into()).is_none()
}

#[test]
fn types_of_one_json_are_one_form() {
    for (form, texts) in [
        (
            "String",
            &["String", "std::string::String", "&str", "&'astr", "&'a str", "&'staticstr", "&mutstr"][..],
        ),
        ("String", &["Box<str>", "Arc<String>", "Rc<&str>", "Cow<'a,str>", "std::borrow::Cow<'static,str>"]),
        ("Option<i64>", &["core::option::Option<i64>", "Option<Option<i64>>", "Box<Option<Arc<i64>>>"]),
        (
            "Vec<i32>",
            &["&[i32]", "&'a[i32]", "&'amut[i32]", "BTreeSet<i32>", "HashSet<i32,S>", "Cow<'_,[i32]>"],
        ),
        ("HashMap<String, f64>", &["BTreeMap<&'astr,f64>", "HashMap<String,f64,RandomState,>"]),
        ("u64", &["usize", "std::primitive::u64", "&'au64", "&u64", "(u64)"]),
        ("NonZeroI32", &["NonZero<i32>", "std::num::NonZeroI32"]),
        ("DateTime", &["DateTime<Utc>", "chrono::DateTime<chrono::FixedOffset>"]),
        (
            "Money",
            &["crate::money::Money", "&'aMoney", "&'acrate::money::Money", "::money::Money", "&mutMoney"],
        ),
        ("Money<Euro>", &["Money::<'a,currency::Euro>", "&'longMoney<'long,Euro>"]),
        ("type", &["r#type", "a::r#type"]),
        ("[u8; 32]", &["[u8;32]", "Box<[u8;32]>"]),
        ("(i64,)", &["(i64,)", "(&'ai64,)"]),
        ("(bool, [char; N])", &["(bool,[char;N])", "(bool,[char;N],)"]),
        ("()", &["()"]),
    ] {
        for text in texts {
            assert_eq!(read(text), form, "{text}");
        }
    }
}

#[test]
fn what_is_not_understood_is_its_own_text() {
    for text in [
        "",
        "<TasTrait>::Out",
        "Box<dynFn(i64)->i64>",
        "fn(i64)",
        "*consti64",
        "Vec<",
        "Foo<{N}>",
        "(i64",
        "[u8;]",
        "[u8",
        "i64>",
        "a::",
        "?",
        "Foo<Item=i64>",
        "'a",
        "(i64i64",
        "Box<dynA+B>",
    ] {
        assert_eq!(Form::from(text), Form::Named(text.to_owned(), Vec::new()), "{text}");
    }
    assert!(passes("Vec<fn()>", "Vec<fn()>") && !passes("Vec<fn()>", "Vec<fn(i64)>"));
}

#[test]
fn a_type_nested_too_deep_is_its_own_text() {
    for open in ["Vec<", "(", "[", "&", "&'a[", "a::b<"] {
        let text = open.repeat(100_000);
        assert_eq!(Form::from(text.as_str()), Form::Named(text, Vec::new()));
    }
    // Wide is not deep.
    assert!(passes(&format!("({})", "i64,".repeat(50)), &format!("({})", "i32,".repeat(50))));
}

#[test]
fn names_are_compared_and_nothing_else_is_known_of_them() {
    for (was, is) in [
        ("Uuid", "String"),
        ("String", "Uuid"),
        ("NaiveDate", "NaiveDateTime"),
        ("NaiveDateTime", "DateTime<Utc>"),
        ("BigDecimal", "f64"),
        ("Status", "State"),
        ("Page<i64>", "Page<i32>"),
        ("Cents", "i64"),
        ("i64", "bool"),
        ("bool", "Vec<bool>"),
    ] {
        assert!(!passes(was, is), "{was} → {is}");
    }
    assert!(passes("a::Uuid", "b::Uuid") && passes("Page<&str>", "Page<String>"));
}

#[test]
fn the_reason_of_a_break_names_what_a_subscriber_does() {
    for (was, is, why) in [
        ("i32", "i64", "a value that i32 cannot hold fails in a subscriber that reads i32"),
        ("String", "Option<String>", "it may be null now, and a subscriber that reads String fails on null"),
        ("i64", "redacted", "its value is no longer in the messages"),
        ("Option<i64>", "hashed", "its value is no longer in the messages"),
        ("hashed", "String", "a subscriber compares or stores the hash, and gets another value"),
        ("redacted", "String", "a subscriber compares or stores the mark, and gets another value"),
        ("f32", "f64", "a subscriber that reads f32 loses precision"),
        ("f64", "u64", "a subscriber that reads f64 loses precision in large values"),
        ("i64", "f64", "a subscriber that reads i64 cannot read f64"),
        ("[u8;2]", "[u8;3]", "a subscriber that reads 2 elements fails on another number of them"),
        ("Vec<i64>", "Vec<String>", "in each element: a subscriber that reads i64 cannot read String"),
        (
            "HashMap<String,Option<i64>>",
            "Option<BTreeMap<String,i64>>",
            "it may be null now, and a subscriber that reads HashMap<String, Option<i64>> fails on null",
        ),
        (
            "HashMap<String,i64>",
            "HashMap<i64,i64>",
            "in each key: a subscriber that reads String cannot read i64",
        ),
        (
            "?",
            "i64",
            "serde attributes hide what the messages hold, so nothing says that subscribers can still read it",
        ),
    ] {
        assert_eq!(Form::from(was).broken_by(&is.into()).as_deref(), Some(why), "{was} → {is}");
    }
}

/// A type with some of its values, among them the outermost.
struct Sample {
    text: &'static str,
    values: Vec<Value>,
    /// Whether a subscriber that has this type reads the value, and as the same.
    reads: fn(&Value) -> bool,
}

fn sample<T: Serialize + DeserializeOwned>(text: &'static str, values: Vec<T>) -> Sample {
    Sample {
        text,
        values: values.into_iter().map(|value| json!(value)).collect(),
        reads: |value| serde_json::from_value::<T>(value.clone()).is_ok_and(|read| same(&json!(read), value)),
    }
}

/// Equal but for `1` and `1.0`.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(float), Value::Number(integer)) if float.is_f64() && integer.is_i64() => {
            float.as_f64().map(|float| float as i64) == integer.as_i64()
        }
        (Value::Number(float), Value::Number(integer)) if float.is_f64() && integer.is_u64() => {
            float.as_f64().map(|float| float as u64) == integer.as_u64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

macro_rules! integers {
    ($($ty:ident)*) => { [$(sample(stringify!($ty), vec![$ty::MIN, 0, $ty::MAX / 3, $ty::MAX])),*] };
}

fn samples() -> Vec<Sample> {
    let text = || "lamp".to_owned();
    let mut samples = vec![
        sample("bool", vec![true, false]),
        sample("char", vec!['a', 'é']),
        sample("String", vec![text(), String::new()]),
        sample("f32", vec![f32::MIN, 1.0, 1.0 / 3.0, f32::MAX]),
        sample("f64", vec![f64::MIN, 1.0, 1.0 / 3.0, f64::MAX]),
        sample("NonZeroU8", vec![NonZeroU8::MIN, NonZeroU8::MAX]),
        sample(
            "NonZero<i64>",
            [i64::MIN, i64::MAX / 3].map(|value| NonZeroI64::new(value).unwrap()).to_vec(),
        ),
        sample("Option<String>", vec![Some(text()), None]),
        sample("Option<i32>", vec![Some(i32::MAX), None]),
        sample("Option<Option<u8>>", vec![Some(Some(u8::MAX)), None]),
        sample("Vec<i32>", vec![vec![i32::MAX], vec![i32::MIN; 3]]),
        sample("Vec<Option<i64>>", vec![vec![None, Some(i64::MAX)]]),
        sample("Box<[u64]>", vec![vec![u64::MAX].into_boxed_slice()]),
        sample("[i16;2]", vec![[i16::MIN, i16::MAX]]),
        sample("[i16;3]", vec![[i16::MIN, i16::MAX, 0]]),
        sample("(u8,String)", vec![(u8::MAX, text())]),
        sample("(i64,char)", vec![(i64::MAX, 'a')]),
        sample("HashMap<String,u16>", vec![HashMap::from([(text(), u16::MAX)])]),
        sample(
            "BTreeMap<String,Option<u64>>",
            vec![BTreeMap::from([(text(), None), ("b".into(), Some(u64::MAX))])],
        ),
    ];
    samples.extend(integers!(u8 u16 u32 u64 i8 i16 i32 i64));
    samples
}

/// The oracle is serde_json: it reads the messages for subscribers.
#[test]
fn a_change_passes_exactly_if_subscribers_read_every_message_of_the_new_type() {
    let samples = samples();
    let mut read = 0;
    for was in &samples {
        for is in &samples {
            let is_read = is.values.iter().all(was.reads);
            assert_eq!(passes(was.text, is.text), is_read, "{} → {}", was.text, is.text);
            read += usize::from(is_read);
        }
    }
    assert!(read > samples.len(), "no change passed");
}

/// Else two harmless changes, one after the other, could break a subscriber.
#[test]
fn what_passes_in_two_steps_passes_in_one() {
    let leaves = [
        "u8",
        "u32",
        "u64",
        "i8",
        "i32",
        "i64",
        "NonZeroU8",
        "NonZeroI32",
        "f32",
        "f64",
        "String",
        "char",
        "redacted",
        "?",
        "Option<i64>",
        "Option<u8>",
        "[u8;2]",
        "Vec<u8>",
        "Vec<Option<i32>>",
        "Option<Vec<u8>>",
    ];
    let mut passed = 0;
    for around in ["_", "Option<_>", "Vec<_>", "(_,i64)", "HashMap<String,_>"] {
        let texts = leaves.map(|leaf| around.replace('_', leaf));
        for (a, b, c) in texts.iter().flat_map(|a| {
            let texts = &texts;
            texts.iter().flat_map(move |b| texts.iter().map(move |c| (a, b, c)))
        }) {
            if a != b && b != c && passes(a, b) && passes(b, c) {
                assert!(passes(a, c), "{a} → {b} → {c}");
                passed += 1;
            }
        }
    }
    assert!(passed > 100, "{passed}");
}

/// Texts of types, written as `quote!` writes them and otherwise.
fn type_text() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        prop::sample::select(
            &[
                "i8",
                "i32",
                "i64",
                "u16",
                "u64",
                "usize",
                "f32",
                "f64",
                "bool",
                "char",
                "String",
                "&'astr",
                "Uuid",
                "chrono::NaiveDate",
                "DateTime<Utc>",
                "NonZeroU32",
                "()",
            ][..]
        )
        .prop_map(str::to_owned),
        "[A-Z][a-z]{0,3}",
    ];
    name.prop_recursive(4, 24, 3, |inner| {
        let wrapped = (
            prop::sample::select(
                &[
                    "Option<_>",
                    "Vec<_>",
                    "&'a[_]",
                    "Box<_>",
                    "[_;3]",
                    "HashMap<String,_>",
                    "(_,)",
                    "a::Own<'a,_>",
                ][..],
            ),
            inner.clone(),
        );
        prop_oneof![
            wrapped.prop_map(|(around, text)| around.replace('_', &text)),
            (inner.clone(), inner).prop_map(|(one, other)| format!("({one},{other})")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_a_form_that_reads_back_and_equals_itself(
        text in prop_oneof![r"\PC*", "[a-zA-Z&'<>()\\[\\];:,?# _0-9]{0,24}", type_text()]
    ) {
        let form = Form::from(text.as_str());
        prop_assert_eq!(form.broken_by(&form), None);
        prop_assert_eq!(Form::from(form.to_string()), form);
    }

    #[test]
    fn null_is_a_break_at_every_depth_and_no_null_is_not(
        ty in type_text(),
        around in prop::sample::select(&["_", "Vec<_>", "(i64,_)", "[_;2]", "HashMap<String,_>"][..]),
    ) {
        let plain = Form::from(ty.as_str());
        prop_assume!(!matches!(plain, Form::Nullable(_)));
        let nullable = around.replace('_', &format!("Option<{ty}>"));
        let plain = around.replace('_', &ty);
        prop_assert!(passes(&nullable, &plain));
        prop_assert!(!passes(&plain, &nullable));
    }
}
