//! The file that a contract is kept in.

use std::fs;
use std::io::ErrorKind as Io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Schema;
use crate::error::{Error, ErrorKind, Result};

/// The version of the file's format.
const FORMAT: u64 = 1;

#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    messages: &'a [Schema],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "format")]
    _format: u64,
    messages: Vec<Schema>,
}

/// The file's text: what git shows as one line a field.
pub(super) fn text(messages: &[Schema]) -> String {
    let written = Written { format: FORMAT, messages };
    #[expect(clippy::expect_used, reason = "texts, numbers and maps with text keys always have a JSON form")]
    let mut text = serde_json::to_string_pretty(&written).expect("a contract has a JSON form");
    text.push('\n');
    text
}

/// The messages in the file; `None` when there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Schema>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == Io::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path, e)),
    };
    parse(&text).map(Some).map_err(|e| e.context(format!("contract {}", path.display())))
}

pub(super) fn parse(text: &str) -> Result<Vec<Schema>> {
    if let Some(line) = text.lines().position(is_conflict) {
        return Err(Error::invalid(format!(
            "line {} is a merge conflict; keep either side whole and run the test on your machine: it adds what \
             that side lacks",
            line + 1
        )));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("it is not JSON; {RESTORE}"), e))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(Error::invalid(format!(
                "it has format {newer}, and this version of outbox-core reads format {FORMAT}; use the version that \
                 wrote it, or a newer one"
            )));
        }
        _ => return Err(Error::invalid(format!("it names no format; {RESTORE}"))),
    }
    let read: Read = serde_json::from_value(value)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("it is no contract; {RESTORE}"), e))?;
    let mut kinds: Vec<&str> =
        read.messages.iter().flat_map(|schema| &schema.kinds).map(String::as_str).collect();
    kinds.sort_unstable();
    if let Some(twice) = kinds.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
        return Err(Error::invalid(format!("it names {twice} twice; remove the one that does not hold")));
    }
    Ok(read.messages)
}

/// Writes the file whole or not at all: tests run at the same time, and another may be reading it.
pub(super) fn write(path: &Path, messages: &[Schema]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| failed("create the folder of", path, e))?;
    let draft = folder.join(format!(".{}.draft", Uuid::now_v7()));
    let written = fs::write(&draft, text(messages)).and_then(|()| fs::rename(&draft, path));
    written.map_err(|e| {
        // Whether there is a draft to remove depends on what failed.
        let _ = fs::remove_file(&draft);
        failed("write", path, e)
    })
}

fn failed(to: &str, path: &Path, e: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Application, format!("cannot {to} contract {}", path.display()), e)
}

const RESTORE: &str = "restore it from version control";

fn is_conflict(line: &str) -> bool {
    ["<<<<<<<", "|||||||", ">>>>>>>"].iter().any(|mark| line.starts_with(mark))
}
