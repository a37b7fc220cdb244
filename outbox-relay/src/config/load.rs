//! Reads a configuration: text, environment on top, variables and files put in, every key checked against
//! the known ones. Problems are gathered, never reported one at a time.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value as Toml};

use super::keys::{self, LISTS, TABLES, Value};
use super::value::{ByteSize, Interval};
use super::{Config, Problems};

/// What an override starts with. The path follows, its words separated by two underscores.
const PREFIX: &str = "OUTBOX_";
const SEPARATOR: &str = "__";
/// A list in the environment is short; a larger index is a mistake and must not fill the memory.
const LIST_MAX: usize = 1000;

/// Environment variables, so that tests need not change the process's own.
///
/// ```
/// use outbox_relay::config::{Environment, from_text};
///
/// let text = r#"
///     [broker]
///     url = "amqp://relay:${PASSWORD}@localhost"
///     [[outbox]]
///     name = "product"
///     database = "sqlite:///var/lib/product.db"
/// "#;
/// let environment = Environment::of([
///     ("PASSWORD", "secret"),
///     ("OUTBOX_OUTBOX__0__LEASE", "30s"),
/// ]);
/// let config = from_text(text, &environment)?;
/// assert_eq!(config.broker.url.expose(), "amqp://relay:secret@localhost");
/// assert_eq!(config.outbox[0].lease.get().as_secs(), 30);
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's. Variables that are no UTF-8 are left out.
    ///
    /// ```
    /// use outbox_relay::config::{Environment, from_text};
    ///
    /// // Each of them may stand in a text; PATH is there everywhere.
    /// let text = r#"
    ///     admin.token = "${PATH}"
    ///     [broker]
    ///     url = "amqp://localhost"
    ///     [[outbox]]
    ///     name = "product"
    ///     database = "sqlite:///var/lib/product.db"
    /// "#;
    /// let config = from_text(text, &Environment::of_process())?;
    /// let token = config.admin.token.unwrap();
    /// assert_eq!(Some(token.expose()), std::env::var("PATH").ok().as_deref());
    /// # Ok::<(), outbox_relay::config::Problems>(())
    /// ```
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// These.
    pub fn of<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Reads a file with the environment on top.
///
/// ```
/// use outbox_relay::config::{Environment, from_file};
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("outbox-relay.toml");
/// let Err(problems) = from_file(&path, &Environment::default()) else { panic!("it is not there") };
/// assert!(problems.to_string().ends_with("`outbox-relay init` writes a new one"));
///
/// std::fs::write(&path, "[[subscriber]]\nname = \"order\"\ndatabase = \"sqlite:///var/lib/order.db\"")?;
/// let environment = Environment::of([("OUTBOX_BROKER__URL", "amqp://localhost")]);
/// let config = from_file(&path, &environment)?;
/// assert_eq!(config.subscriber[0].name, "order");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Every problem at once.
pub fn from_file(path: &Path, environment: &Environment) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problems(vec![format!("{}: {error}; `outbox-relay init` writes a new one", path.display())])
    })?;
    from_text(&text, environment).map_err(|Problems(found)| {
        Problems(found.into_iter().map(|problem| format!("{}: {problem}", path.display())).collect())
    })
}

/// Reads a text with the environment on top.
///
/// ```
/// use outbox_relay::config::{Environment, from_text};
///
/// let text = r#"
///     [broker]
///     url = "amqp://localhost"
///     [[outbox]]
///     name = "product"
///     database = "sqlite:///var/lib/product.db"
/// "#;
/// let config = from_text(text, &Environment::default())?;
/// assert_eq!(config.outbox[0].database.expose(), "sqlite:///var/lib/product.db");
/// assert_eq!(config.outbox[0].batch_rows, 1000);
///
/// let wrong = from_text(&text.replace("name", "nmae"), &Environment::default());
/// assert!(wrong.unwrap_err().to_string().contains("outbox[0].nmae: unknown key; did you mean \"name\"?"));
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
///
/// # Errors
/// Every problem at once.
pub fn from_text(text: &str, environment: &Environment) -> Result<Config, Problems> {
    let mut table: Table =
        text.parse().map_err(|error: toml::de::Error| Problems(vec![without_source(text, &error)]))?;
    let mut problems = Vec::new();
    overlay(&mut table, environment, &mut problems);
    check_sections(&mut table, environment, &mut problems);
    let config = match Config::deserialize(Toml::Table(table)) {
        Ok(config) => config,
        Err(error) => {
            problems.push(error.message().to_owned());
            return Err(Problems(problems));
        }
    };
    // A key that was taken out as wrong is not missing too.
    let path = |problem: &str| problem.split(": ").next().map(str::to_owned);
    let told: Vec<_> = problems.iter().map(|problem| path(problem)).collect();
    problems.extend(config.validate().into_iter().filter(|problem| !told.contains(&path(problem))));
    if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
}

/// The error without the line of the file, in which a password may stand.
fn without_source(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message())
}

/// Puts overriding variables into the table, as text; [`check_value`] gives them their types.
fn overlay(table: &mut Table, environment: &Environment, problems: &mut Vec<String>) {
    for (name, value) in &environment.0 {
        // A name without a separator is somebody else's, for example a variable for `${…}`.
        let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains(SEPARATOR)) else { continue };
        let path = path.to_ascii_lowercase();
        let words: Vec<&str> = path.split(SEPARATOR).collect();
        let value = Toml::String(value.clone());
        let is_placed = match words[..] {
            [section, key] if TABLES.contains(&section) => {
                place(table.entry(section).or_insert_with(|| Toml::Table(Table::new())), key, value)
            }
            [section, index, key] if LISTS.contains(&section) => {
                let list = table.entry(section).or_insert_with(|| Toml::Array(Vec::new()));
                index
                    .parse()
                    .ok()
                    .and_then(|index| element(list, index))
                    .is_some_and(|item| place(item, key, value))
            }
            [section, index, inner, number, key] if LISTS.contains(&section) => {
                let list = table.entry(section).or_insert_with(|| Toml::Array(Vec::new()));
                let item = index.parse().ok().and_then(|index| element(list, index));
                let inner = item
                    .and_then(Toml::as_table_mut)
                    .map(|table| table.entry(inner).or_insert_with(|| Toml::Array(Vec::new())));
                inner
                    .and_then(|list| element(list, number.parse().ok()?))
                    .is_some_and(|item| place(item, key, value))
            }
            _ => false,
        };
        if !is_placed {
            problems.push(format!(
                "environment variable {name}: names no key; write {PREFIX}BROKER{SEPARATOR}URL for broker.url, \
                 {PREFIX}OUTBOX{SEPARATOR}0{SEPARATOR}DATABASE for the first outbox's database"
            ));
        }
    }
}

fn place(item: &mut Toml, key: &str, value: Toml) -> bool {
    item.as_table_mut().map(|table| table.insert(key.to_owned(), value)).is_some()
}

/// The element of a list, which grows to have it.
fn element(list: &mut Toml, index: usize) -> Option<&mut Toml> {
    let list = list.as_array_mut().filter(|_| index < LIST_MAX)?;
    while list.len() <= index {
        list.push(Toml::Table(Table::new()));
    }
    list.get_mut(index)
}

/// Checks every key of every section; takes out what is wrong, so that the rest can be checked further.
fn check_sections(table: &mut Table, environment: &Environment, problems: &mut Vec<String>) {
    let sections: Vec<String> = table.keys().cloned().collect();
    for section in sections {
        let name = section.as_str();
        let is_right = match table.get_mut(name) {
            Some(Toml::Table(inside)) if TABLES.contains(&name) => {
                check_keys(name, name, inside, environment, problems);
                true
            }
            Some(Toml::Array(list)) if LISTS.contains(&name) && list.iter().all(Toml::is_table) => {
                for (number, item) in list.iter_mut().enumerate() {
                    if let Toml::Table(inside) = item {
                        check_keys(name, &format!("{name}[{number}]"), inside, environment, problems);
                    }
                }
                true
            }
            _ => false,
        };
        if is_right {
            continue;
        }
        table.remove(name);
        problems.push(if TABLES.contains(&name) {
            format!("{name}: write it as a section [{name}]")
        } else if LISTS.contains(&name) {
            format!("{name}: write it as a section [[{name}]]")
        } else {
            let known = TABLES.iter().chain(LISTS).copied();
            format!("{name}: unknown section; {}", keys::meant(name, known))
        });
    }
}

fn check_keys(
    section: &str,
    path: &str,
    table: &mut Table,
    environment: &Environment,
    problems: &mut Vec<String>,
) {
    let names: Vec<String> = table.keys().cloned().collect();
    for name in names {
        let checked = match (keys::find(section, &name), table.remove(&name)) {
            (Some(Value::Sections(inner)), Some(Toml::Array(mut list)))
                if list.iter().all(Toml::is_table) =>
            {
                for (number, item) in list.iter_mut().enumerate() {
                    if let Toml::Table(inside) = item {
                        check_keys(inner, &format!("{path}.{name}[{number}]"), inside, environment, problems);
                    }
                }
                Ok(Toml::Array(list))
            }
            (Some(kind), Some(value)) => check_value(kind, value, environment),
            _ => Err(format!("unknown key; {}", keys::meant(&name, keys::names(section)))),
        };
        match checked {
            Ok(value) => {
                table.insert(name, value);
            }
            Err(problem) => problems.push(format!("{path}.{name}: {problem}")),
        }
    }
}

/// A value of the right type, with variables and files put in.
fn check_value(kind: Value, value: Toml, environment: &Environment) -> Result<Toml, String> {
    let value = match value {
        Toml::String(text) => Toml::String(expand(&text, environment)?),
        other => other,
    };
    match (kind, value) {
        (Value::Text, Toml::String(text)) => Ok(Toml::String(text)),
        (Value::Secret, Toml::String(text)) => content(text).map(Toml::String),
        (Value::Bool, Toml::Boolean(value)) => Ok(Toml::Boolean(value)),
        (Value::Bool, Toml::String(text)) => {
            text.trim().parse().map(Toml::Boolean).map_err(|_| format!("{text:?} is neither true nor false"))
        }
        (Value::Integer | Value::Bytes, Toml::Integer(number)) => {
            // Above zero and within 32 bits for a count; sizes are checked again by `validate`.
            u32::try_from(number)
                .map(|_| Toml::Integer(number))
                .map_err(|_| format!("{number} is out of range"))
        }
        (Value::Integer, Toml::String(text)) => {
            let number: u32 = text.trim().parse().map_err(|_| format!("{text:?} is no whole number"))?;
            Ok(Toml::Integer(number.into()))
        }
        (Value::Interval, Toml::String(text)) => {
            Interval::parse(text.trim()).map(|_| Toml::String(text.trim().into()))
        }
        (Value::Bytes, Toml::String(text)) => {
            ByteSize::parse(text.trim()).map(|_| Toml::String(text.trim().into()))
        }
        (Value::OneOf(choices), Toml::String(text)) => {
            if choices.contains(&text.as_str()) {
                Ok(Toml::String(text))
            } else {
                Err(format!("{text:?} is not one of {}", choices.join(", ")))
            }
        }
        (Value::Texts, Toml::String(text)) => {
            Ok(text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>().into())
        }
        (Value::Texts, Toml::Array(list)) if list.iter().all(Toml::is_str) => {
            let texts = list.iter().filter_map(Toml::as_str).map(|text| expand(text, environment));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.into())
        }
        (Value::Interval, Toml::Integer(number)) => {
            Err(format!("{number} has no unit; write it as \"250ms\" or \"10s\""))
        }
        (kind, other) => Err(format!("is a {}, not a {}", other.type_str(), wanted(kind))),
    }
}

fn wanted(kind: Value) -> &'static str {
    match kind {
        Value::Bool => "boolean (true or false)",
        Value::Integer => "whole number",
        Value::Bytes => "size (a number of bytes, or \"8 MiB\")",
        Value::Texts => "list of texts",
        Value::Sections(_) => "list of sections [[…]]",
        _ => "text in quotes",
    }
}

/// Puts variables in for `${NAME}`; `$${` stands for `${` itself.
fn expand(text: &str, environment: &Environment) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        let Some(end) = rest[at..].find('}') else {
            return Err("a ${ without its }; write $${ where the two characters themselves are meant".into());
        };
        let name = &rest[at + 2..at + end];
        let value =
            environment.0.get(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        out.push_str(&rest[..at]);
        out.push_str(value);
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// What `file:PATH` holds, or the text itself.
fn content(text: String) -> Result<String, String> {
    let Some(path) = text.strip_prefix("file:") else { return Ok(text) };
    let content = std::fs::read_to_string(path).map_err(|error| format!("file {path}: {error}"))?;
    Ok(content.strip_suffix('\n').map(|c| c.strip_suffix('\r').unwrap_or(c)).unwrap_or(&content).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [broker]
        url = "amqp://localhost"
        [[outbox]]
        name = "product"
        database = "sqlite:///tmp/product.db"
    "#;

    fn problems(text: &str, environment: &Environment) -> String {
        from_text(text, environment).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_the_whole_path() {
        let text = SMALL.replace("database", "databse").replace("[broker]", "[broker]\nexchnage = \"x\"");
        let found = problems(&text, &Environment::default());
        assert!(found.contains("outbox[0].databse: unknown key; did you mean \"database\"?"), "{found}");
        assert!(found.contains("broker.exchnage: unknown key; did you mean \"exchange\"?"), "{found}");
        assert!(found.contains("outbox[0].database: is needed"), "{found}");
        let found = problems(&format!("{SMALL}\n[brokr]\n"), &Environment::default());
        assert!(found.contains("brokr: unknown section; did you mean \"broker\"?"), "{found}");
    }

    #[test]
    fn wrong_types_and_units_are_told_together() {
        let text =
            format!("{SMALL}\nlease = 10\nbatch_rows = \"many\"\nbatch_bytes = \"8 MB\"\nmode = \"push\"");
        let found = problems(&text, &Environment::default());
        for part in
            ["lease: 10 has no unit", "batch_rows: \"many\"", "batch_bytes: \"8 MB\"", "mode: \"push\""]
        {
            assert!(found.contains(part), "{part} not in {found}");
        }
    }

    #[test]
    fn the_environment_overrides_every_key() {
        let environment = Environment::of([
            ("OUTBOX_BROKER__URL", "amqp://other"),
            ("OUTBOX_BROKER__DECLARE", "false"),
            ("OUTBOX_OUTBOX__0__BATCH_ROWS", "7"),
            ("OUTBOX_OUTBOX__1__NAME", "order"),
            ("OUTBOX_OUTBOX__1__DATABASE", "sqlite:///tmp/order.db"),
            ("OUTBOX_ADMIN_TOKEN", "not an override"),
        ]);
        let config = from_text(SMALL, &environment).unwrap();
        assert_eq!(config.broker.url.expose(), "amqp://other");
        assert!(!config.broker.declare);
        assert_eq!(config.outbox[0].batch_rows, 7);
        assert_eq!(config.outbox[1].name, "order");
        for (section, name, _) in keys::KEYS {
            let index = if LISTS.contains(section) || section.contains('.') { "0__" } else { "" };
            let path = section.replace('.', "__0__");
            let variable = format!("OUTBOX_{path}__{index}{name}").to_ascii_uppercase();
            let found = problems(SMALL, &Environment::of([(variable.as_str(), "${missing}")]));
            assert!(
                found.contains(&format!("{name}: the environment variable missing is not set")),
                "{found}"
            );
        }
    }

    #[test]
    fn a_wrong_override_is_told() {
        let found = problems(
            SMALL,
            &Environment::of([("OUTBOX_BROKER__ULR", "x"), ("OUTBOX_OUTBOX__DATABASE", "x")]),
        );
        assert!(found.contains("broker.ulr: unknown key; did you mean \"url\"?"), "{found}");
        assert!(found.contains("OUTBOX_OUTBOX__DATABASE: names no key"), "{found}");
    }

    #[test]
    fn variables_and_files_are_put_in() {
        let file = std::env::temp_dir().join(format!("outbox-relay-secret-{}", std::process::id()));
        std::fs::write(&file, "mysql://u:p@h/db\n").unwrap();
        let text = SMALL
            .replace("amqp://localhost", "amqp://u:${PASSWORD}@h/$${x}")
            .replace("sqlite:///tmp/product.db", &format!("file:{}", file.display()));
        let config = from_text(&text, &Environment::of([("PASSWORD", "s${nope}")])).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.broker.url.expose(), "amqp://u:s${nope}@h/${x}");
        assert_eq!(config.outbox[0].database.expose(), "mysql://u:p@h/db");
    }

    #[test]
    fn a_mode_that_nothing_rings_for_is_refused_in_clear_words() {
        let found = problems(&format!("{SMALL}\nmode = \"tail\""), &Environment::default());
        assert!(found.contains("outbox[0].mode: \"tail\" needs a server"), "{found}");
    }
}
