use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use super::*;
use crate::entity::{EventNames, FieldWriter};

struct Product;

impl Entity for Product {
    const AGGREGATE: &'static str = "product";
    const SCHEMA: &'static str = "not looked at";
    const FIELDS: &'static [FieldSchema] = &[
        field("name", "String"),
        field("id", "i64"),
        field("note", "Option<std::string::String>"),
        field("email", "hashed"),
    ];
    const EVENTS: EventNames = EventNames { deleted: "gone", ..EventNames::DEFAULT };

    fn key(&self) -> String {
        String::new()
    }

    fn write_fields<W: FieldWriter>(&self, _: &mut W) -> serde_json::Result<()> {
        Ok(())
    }
}

const fn field(name: &'static str, ty: &'static str) -> FieldSchema {
    FieldSchema { name, ty }
}

fn raised(version: u32, fields: &[(&'static str, &'static str)]) -> Contract {
    let fields: Vec<_> = fields.iter().map(|(name, ty)| field(name, ty)).collect();
    Contract::new().message("product", "price_raised", version, &fields)
}

/// A folder that is removed with its contract.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = env::temp_dir().join(format!("outbox-contract-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("contract.json")
    }

    fn with(contract: &Contract) -> Self {
        let folder = Self::new();
        assert_eq!(contract.check_as(Mode::Write, &folder.file()).unwrap(), Outcome::Written);
        folder
    }

    fn with_text(text: &str) -> Self {
        let folder = Self::new();
        fs::write(folder.file(), text).unwrap();
        folder
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// What a check of `is` finds in the file of `was`.
fn change(was: &Contract, is: &Contract) -> Result<Outcome> {
    let folder = Folder::with(was);
    let outcome = is.check_as(Mode::Write, &folder.file());
    let kept = if outcome.is_ok() { is } else { was };
    assert_eq!(folder.text(), kept.to_json());
    outcome
}

fn broken(was: &Contract, is: &Contract) -> String {
    change(was, is).unwrap_err().to_string()
}

#[test]
fn the_file_has_one_line_for_each_field_in_the_order_of_names() {
    let contract = raised(2, &[("product_id", "&'ai64"), ("by", "Cow<'a,BigDecimal>")]).entity::<Product>();
    let folder = Folder::with(&contract);
    assert_eq!(
        folder.text(),
        r#"{
  "format": 1,
  "messages": [
    {
      "kinds": [
        "product.created",
        "product.updated",
        "product.gone"
      ],
      "fields": {
        "email": "hashed",
        "id": "i64",
        "name": "String",
        "note": "Option<String>"
      }
    },
    {
      "kinds": [
        "product.price_raised"
      ],
      "version": 2,
      "fields": {
        "by": "BigDecimal",
        "product_id": "i64"
      }
    }
  ]
}
"#
    );
    assert_eq!(contract.check_as(Mode::Frozen, &folder.file()).unwrap(), Outcome::Unchanged);
}

#[test]
fn a_file_in_another_order_and_layout_says_the_same_and_is_left_alone() {
    let contract = raised(1, &[("a", "i64"), ("b", "String")]).entity::<Product>();
    let value: serde_json::Value = serde_json::from_str(&contract.to_json()).unwrap();
    let mut messages = value["messages"].as_array().unwrap().clone();
    messages.reverse();
    let text = format!("{{\"messages\":{},\r\n\"format\":1}}", serde_json::Value::from(messages));
    let folder = Folder::with_text(&text);
    assert_eq!(contract.check_as(Mode::Write, &folder.file()).unwrap(), Outcome::Unchanged);
    assert_eq!(folder.text(), text);
}

#[test]
fn what_is_new_or_narrower_is_written_and_told() {
    let was = raised(1, &[("a", "i64"), ("b", "Option<String>")]);
    let is = raised(2, &[("a", "i32"), ("b", "String"), ("c", "bool")]).entity::<Product>();
    let Outcome::Extended(lines) = change(&was, &is).unwrap() else { panic!("not extended") };
    assert_eq!(
        lines,
        [
            "product.price_raised: schema version: was 1, is 2",
            "product.price_raised: field `a`: was i64, is i32, which subscribers that read i64 read as well",
            "product.price_raised: field `b`: was Option<String>, is String, which subscribers that read \
             Option<String> read as well",
            "product.price_raised: field `c`: new, bool",
            "product.created, product.updated, product.gone: is new",
        ]
    );
}

#[test]
fn every_break_is_told_with_the_message_the_field_and_the_ways_on() {
    let was = raised(2, &[("a", "i32"), ("b", "String"), ("c", "bool")]).message("order", "placed", 1, &[]);
    let is = raised(1, &[("a", "i64"), ("b", "Option<String>")]).message("order", "closed", 1, &[]);
    let text = broken(&was, &is);
    let (head, breaks) = text.split_once('\n').unwrap();
    assert!(head.contains("contract.json is broken"), "{head}");
    let (breaks, ways) = breaks.split_once("\nWays on:").unwrap();
    assert_eq!(
        breaks,
        "
order.placed
  - is no longer published: its subscribers wait in vain.

product.price_raised
  - schema version: was 2, is 1. A subscriber takes the messages for those of an older schema.
  - field `a`: was i32, is i64. Why: a value that i32 cannot hold fails in a subscriber that reads i32.
  - field `b`: was String, is Option<String>. Why: it may be null now, and a subscriber that reads String fails \
         on null.
  - field `c`: was bool, is missing. A subscriber that reads it no longer finds it.
"
    );
    assert!(
        ways.contains("beside") && ways.contains("event name") && ways.contains("OUTBOX_CONTRACT=accept")
    );
}

#[test]
fn a_higher_schema_version_excuses_no_break() {
    let text = broken(&raised(1, &[("a", "i64")]), &raised(2, &[]));
    assert!(text.contains("field `a`: was i64, is missing"), "{text}");
}

#[test]
fn a_renamed_event_of_an_entity_breaks_that_kind_alone() {
    struct Renamed;
    impl Entity for Renamed {
        const AGGREGATE: &'static str = Product::AGGREGATE;
        const SCHEMA: &'static str = "";
        const FIELDS: &'static [FieldSchema] = Product::FIELDS;

        fn key(&self) -> String {
            String::new()
        }

        fn write_fields<W: FieldWriter>(&self, _: &mut W) -> serde_json::Result<()> {
            Ok(())
        }
    }
    let (was, is) = (Contract::new().entity::<Product>(), Contract::new().entity::<Renamed>());
    let text = broken(&was, &is);
    assert!(text.contains("\nproduct.gone\n") && !text.contains("product.updated"), "{text}");
    let folder = Folder::with(&was);
    let Outcome::Accepted(lines) = is.check_as(Mode::Accept, &folder.file()).unwrap() else {
        panic!("not accepted")
    };
    assert_eq!(lines, ["product.gone: is no longer published: its subscribers wait in vain"]);
    assert_eq!(folder.text(), is.to_json());
}

#[test]
fn an_entity_that_becomes_an_event_breaks_and_the_reverse() {
    let entity = Contract::new().entity::<Product>();
    let events = ["created", "updated", "gone"];
    let event =
        events.iter().fold(Contract::new(), |all, event| all.message("product", event, 1, Product::FIELDS));
    assert!(
        broken(&entity, &event).contains("\nproduct.updated\n  - was the change of an entity, is an event.")
    );
    assert!(
        broken(&event, &entity).contains("\nproduct.updated\n  - was an event, is the change of an entity.")
    );
}

#[test]
fn a_type_that_is_named_twice_is_one_message_and_two_types_of_one_kind_are_an_error() {
    let contract = Contract::new().entity::<Product>();
    assert_eq!(contract.clone().entity::<Product>(), contract);
    let clash = contract.message("product", "created", 1, Product::FIELDS);
    let folder = Folder::new();
    let error = clash.check_as(Mode::Accept, &folder.file()).unwrap_err();
    assert!(error.to_string().contains("two types publish product.created"), "{error}");
    assert!(!folder.file().exists());
}

#[test]
fn a_frozen_check_writes_nothing_and_refuses_a_missing_and_an_outdated_file() {
    let (was, is) = (raised(1, &[("a", "i64")]), raised(1, &[("a", "i64"), ("b", "i64")]));
    let folder = Folder::new();
    let missing = was.check_as(Mode::Frozen, &folder.file()).unwrap_err().to_string();
    assert!(missing.contains("is missing") && missing.contains("on your machine and commit"), "{missing}");
    assert!(!folder.file().exists());

    let folder = Folder::with(&was);
    let outdated = is.check_as(Mode::Frozen, &folder.file()).unwrap_err().to_string();
    assert!(outdated.contains("is outdated") && outdated.contains("field `b`: new, i64"), "{outdated}");
    let broken = raised(1, &[]).check_as(Mode::Frozen, &folder.file()).unwrap_err().to_string();
    assert!(broken.contains("is broken"), "{broken}");
    assert_eq!(folder.text(), was.to_json());
}

#[test]
fn a_folder_that_is_missing_is_made_and_nothing_else_is_left_in_it() {
    let folder = Folder::new();
    let path = folder.0.join("a/b/contract.json");
    assert_eq!(raised(1, &[]).check_as(Mode::Write, &path).unwrap(), Outcome::Written);
    assert_eq!(raised(1, &[("a", "i64")]).check_as(Mode::Write, &path).unwrap_or(Outcome::Written), {
        Outcome::Extended(vec!["product.price_raised: field `a`: new, i64".to_owned()])
    });
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_file_is_whole_at_every_moment_of_a_write() {
    // So large that no write is done at once.
    let names: Vec<&'static str> = (0..20_000).map(|name| &*format!("field_{name}").leak()).collect();
    let contracts =
        ["i32", "i64"].map(|ty| raised(1, &names.iter().map(|name| (*name, ty)).collect::<Vec<_>>()));
    let folder = Folder::with(&contracts[0]);
    let texts = contracts.each_ref().map(Contract::to_json);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..20 {
                contracts[round % 2].check_as(Mode::Accept, &folder.file()).unwrap();
            }
        });
        while !writer.is_finished() {
            assert!(texts.contains(&folder.text()), "half a file");
        }
    });
}

#[test]
fn a_file_that_is_no_contract_is_named_with_the_remedy() {
    let contract = raised(1, &[("a", "i64")]);
    let text = contract.to_json();
    let twice = r#"{"format": 1, "messages": [
        {"kinds": ["product.price_raised"], "fields": {}},
        {"kinds": ["order.placed", "product.price_raised"], "version": 1, "fields": {}}
    ]}"#;
    for (text, expected) in [
        (
            text.replace("        \"a\": \"i64\"", "<<<<<<< HEAD\n\"a\": \"i64\"\n=======\n>>>>>>> main"),
            "line 10 is a merge conflict; keep either side",
        ),
        (String::new(), "is not JSON; restore it"),
        (
            text.replace("\"format\": 1", "\"format\": 2"),
            "has format 2, and this version of outbox-core reads format 1; use",
        ),
        (text.replace("\"format\": 1", "\"format\": \"1\""), "names no format; restore it"),
        ("[]".to_owned(), "names no format; restore it"),
        (
            text.replace("\"fields\"", "\"field\""),
            "is no contract; restore it from version control: unknown field `field`",
        ),
        (twice.to_owned(), "names product.price_raised twice"),
    ] {
        let folder = Folder::with_text(&text);
        // Not even an order to accept everything replaces what was not understood.
        let error = contract.check_as(Mode::Accept, &folder.file()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("contract.json"), "{error}\n{text}");
        assert_eq!(folder.text(), text);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    let error = raised(1, &[]).check_as(Mode::Write, &folder.0).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read contract {}", folder.0.display())), "{error}");
}

#[test]
fn the_mode_is_that_of_the_variable_and_else_frozen_in_ci() {
    for (contract, ci, mode) in [
        (None, None, Mode::Write),
        (Some(""), Some("false"), Mode::Write),
        (None, Some("true"), Mode::Frozen),
        (Some("write"), Some("true"), Mode::Write),
        (Some("frozen"), None, Mode::Frozen),
        (Some("accept"), Some("1"), Mode::Accept),
    ] {
        assert_eq!(Mode::new(contract, ci).unwrap(), mode, "{contract:?} {ci:?}");
    }
    let error = Mode::new(Some("yes"), None).unwrap_err().to_string();
    assert!(error.contains("`yes`") && error.contains("`accept`"), "{error}");
}

/// The folder that the next test works in, when the one after it runs it in a process of its own.
const CHILD: &str = "OUTBOX_TEST_CONTRACT_FOLDER";

#[test]
fn in_a_child_process_the_contract_holds() {
    if let Some(folder) = env::var_os(CHILD) {
        crate::assert_contract!(PathBuf::from(folder).join("contract.json"), raised(1, &[("a", "i64")]));
    }
}

#[test]
fn the_variable_decides_in_a_real_test_run() {
    let folder = Folder::new();
    let run = |mode: &str| -> Output {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "contract::tests::in_a_child_process_the_contract_holds"])
            .env(CHILD, &folder.0)
            .env("OUTBOX_CONTRACT", mode)
            .output()
            .unwrap()
    };
    let says = |output: &Output, text: &str| {
        assert!(!output.status.success());
        let out = String::from_utf8_lossy(&output.stdout);
        // The place is that of the assertion, not of this module.
        assert!(out.contains(text) && out.contains("contract/tests.rs"), "{out}");
    };
    says(&run("frozen"), "is missing");
    assert!(run("write").status.success());
    assert!(run("frozen").status.success());
    fs::write(folder.file(), raised(1, &[("a", "i32")]).to_json()).unwrap();
    says(&run("write"), "field `a`: was i32, is i64");
    assert!(run("accept").status.success());
    assert_eq!(folder.text(), raised(1, &[("a", "i64")]).to_json());
}

#[test]
fn a_relative_path_begins_at_the_package() {
    let panic =
        std::panic::catch_unwind(|| crate::assert_contract!("Cargo.toml", Contract::new())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml: it is not JSON")), "{text}");
}
