//! What `#[derive(Outbox)]` adds to a build: CPU time of `cargo check` of a throw-away crate of fifty entities and
//! their insertables: without it, with it on the entities, and with it on both, in turns.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::table::Measure;
use crate::{Failure, process};

const ENTITIES: usize = 50;

/// What has the derive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Derived {
    Nothing,
    Entities,
    All,
}

/// CPU milliseconds of a check with the derive, and without, for each run: on entities alone, and on all.
pub(crate) fn measure(runs: usize) -> Result<[Measure; 2], Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the tests have no workspace")?;
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    std::fs::create_dir(place.join("src"))?;
    std::fs::copy(workspace.join("Cargo.lock"), place.join("Cargo.lock"))?;
    std::fs::write(place.join("Cargo.toml"), manifest(workspace))?;
    let (mut nothing, mut entities, mut all) = (Vec::new(), Vec::new(), Vec::new());
    // The first round builds what all depend on.
    for round in 0..=runs {
        for (derived, times) in
            [(Derived::Nothing, &mut nothing), (Derived::Entities, &mut entities), (Derived::All, &mut all)]
        {
            std::fs::write(place.join("src/lib.rs"), source(derived))?;
            let before = children_cpu_ms()?;
            check(place, workspace)?;
            let milliseconds = children_cpu_ms()? - before;
            if round > 0 {
                times.push(milliseconds);
            }
        }
    }
    let measure = |what: &str, ours| Measure {
        measure: format!("derive {ENTITIES} {what}, CPU"),
        against: "without it (less is better)".into(),
        unit: "ms",
        ours,
        theirs: nothing.clone(),
    };
    Ok([measure("entities", entities), measure("with insertables", all)])
}

fn manifest(workspace: &Path) -> String {
    let core = workspace.join("outbox-core");
    format!(
        "[package]\nname = \"fifty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         diesel = {{ version = \"2.3\", default-features = false, features = [\"sqlite\"] }}\n\
         outbox-core = {{ path = {core:?}, features = [\"derive\", \"sqlite\"] }}\n"
    )
}

fn source(derived: Derived) -> String {
    let derive = |from| if derived >= from { ", outbox_core::Outbox" } else { "" };
    let (on_entity, on_new) = (derive(Derived::Entities), derive(Derived::All));
    let attribute = |from, text: String| if derived >= from { text } else { String::new() };
    let mut source = String::from("use diesel::prelude::*;\n");
    for number in 0..ENTITIES {
        let entity = attribute(Derived::Entities, format!("#[outbox(aggregate = \"e{number}\")]\n"));
        let new = attribute(Derived::All, format!("#[outbox(entity = E{number})]\n"));
        // Writing into a String cannot fail.
        let _ = write!(
            source,
            "diesel::table! {{ t{number} (id) {{ id -> BigInt, a -> Text, b -> Text, c -> Text, d -> Integer, \
             e -> BigInt, f -> Bool, g -> Double, h -> Text, i -> BigInt, }} }}\n\
             #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset{on_entity})]\n\
             #[diesel(table_name = t{number})]\n{entity}\
             pub struct E{number} {{ pub id: i64, pub a: String, pub b: String, pub c: String, pub d: i32, \
             pub e: i64, pub f: bool, pub g: f64, pub h: String, pub i: i64 }}\n\
             #[derive(Insertable{on_new})]\n#[diesel(table_name = t{number})]\n{new}\
             pub struct N{number} {{ pub a: String, pub b: String, pub c: String, pub d: i32, pub e: i64 }}\n"
        );
    }
    source
}

fn check(place: &Path, workspace: &Path) -> Result<(), Failure> {
    let output = Command::new("cargo")
        .args(["check", "--quiet", "--offline"])
        .current_dir(place)
        .env("CARGO_TARGET_DIR", workspace.join("target/bench-derive"))
        .env("CARGO_INCREMENTAL", "0")
        .stdout(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cargo check of the throw-away crate: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// CPU time in user mode, in milliseconds, of the processes that this one has started and waited for, and of
/// theirs. Unlike the time on the clock it bears a busy machine.
fn children_cpu_ms() -> Result<f64, Failure> {
    // `cutime`.
    Ok(process::time_field(std::process::id(), 16)?.as_secs_f64() * 1e3)
}
