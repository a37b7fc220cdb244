//! Where the programs of this machine are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program of that name. Servers lie in the `sbin` folders, which users other than root do not search.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    // Joining an absolute path gives that path: such a name finds itself.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The folder with PostgreSQL's programs, of the newest version that is there. Debian does not put them on the
/// path.
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| has_postgres(bin))
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, bin)| bin)
        .or_else(|| {
            output("pg_config", &["--bindir"])
                .map(|line| PathBuf::from(line.trim()))
                .filter(|bin| has_postgres(bin))
        })
        .or_else(|| find("initdb")?.parent().map(Path::to_owned).filter(|bin| has_postgres(bin)))
}

fn has_postgres(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

/// The start script of RabbitMQ. The one on Debian's path insists on the account `rabbitmq`; the one below
/// `/usr/lib` runs as anybody.
pub(crate) fn rabbitmq_server() -> Option<PathBuf> {
    let direct = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if direct.is_file() { Some(direct) } else { find("rabbitmq-server") }
}

/// The library that shows a process another time, for the tests of wrong clocks.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|file| file.is_file())
}

/// Whether pkg-config knows that library, which means that programs can be linked with it.
pub(crate) fn library(name: &str) -> bool {
    output("pkg-config", &["--modversion", name]).is_some()
}

/// What a program printed, if it is there and ended well.
pub(crate) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output =
        Command::new(find(program)?).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
