//! The table copied by the dump program and the client.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::servers::Side;
use crate::Failure;

/// Dumps the table into another database; gives the seconds.
pub(crate) async fn dump(source: &Side, target: &mut Side) -> Result<f64, Failure> {
    let into = url::Url::parse(&target.make("dumped").await?)?;
    let from = url::Url::parse(source.server.url())?;
    let arguments = |url: &url::Url| {
        [
            "--no-defaults".to_owned(),
            "--host=127.0.0.1".to_owned(),
            format!("--port={}", url.port().unwrap_or(3306)),
            format!("--user={}", url.username()),
            format!("--password={}", url.password().unwrap_or_default()),
        ]
    };
    let failed = |program: &str, error: std::io::Error| format!("{program}: {error}; install mariadb-client");
    let started = Instant::now();
    let mut dump = Command::new("mariadb-dump")
        .args(arguments(&from))
        .args(["--single-transaction", "--quick", "bench", "product"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("mariadb-dump", error))?;
    let output = dump.stdout.take().ok_or("mariadb-dump has no output")?;
    let loaded = Command::new("mariadb")
        .args(arguments(&into))
        .arg("dumped")
        .stdin(output)
        .status()
        .map_err(|error| failed("mariadb", error))?;
    let dumped = dump.wait()?;
    let seconds = started.elapsed().as_secs_f64();
    if dumped.success() && loaded.success() { Ok(seconds) } else { Err(format!("{dumped}, {loaded}").into()) }
}
