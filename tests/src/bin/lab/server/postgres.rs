//! PostgreSQL, Debian's. It refuses to run as root, so root runs it as another account.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::tls::{Mode, Tls};
use super::{PASSWORD, Place};
use crate::failure::{Doing as _, Failure, Result};
use crate::process;
use crate::programs;

/// Makes the data folder with the superuser `postgres`.
pub(crate) fn prepare(place: &Place) -> Result<()> {
    let password = place.folder.join("password");
    fs::write(&password, PASSWORD).doing(|| format!("writing {}", password.display()))?;
    if let Some((user, group)) = account()? {
        let key = place.tls.as_ref().map(Tls::key);
        for path in [Some(&place.folder), Some(&password), key.as_ref()].into_iter().flatten() {
            chown(path, Some(user), Some(group)).doing(|| format!("giving {} away", path.display()))?;
        }
    }
    if let Some(primary) = place.primary {
        return follow(place, primary);
    }
    let mut command = program("initdb", place)?;
    command
        .args(["-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
        .arg(format!("--pwfile={}", password.display()))
        .arg("-D")
        .arg(place.folder.join("data"));
    process::run(command, &place.log)?;
    match &place.tls {
        Some(tls) => only_with_tls(place, tls),
        None => Ok(()),
    }
}

/// Copies the data of another server, and follows it from there on.
fn follow(place: &Place, primary: u16) -> Result<()> {
    let mut command = program("pg_basebackup", place)?;
    command
        .env("PGPASSWORD", PASSWORD)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &primary.to_string()])
        .args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-D"])
        .arg(place.folder.join("data"));
    process::run(command, &place.log)
}

/// It takes no key that others may read, and no connection without TLS.
fn only_with_tls(place: &Place, tls: &Tls) -> Result<()> {
    let key = tls.key();
    fs::set_permissions(&key, Permissions::from_mode(0o600))
        .doing(|| format!("closing {}", key.display()))?;
    let rules = place.folder.join("data/pg_hba.conf");
    let client = if tls.mode == Mode::Mutual { " clientcert=verify-ca" } else { "" };
    fs::write(&rules, format!("hostssl all all 127.0.0.1/32 scram-sha-256{client}\n"))
        .doing(|| format!("writing {}", rules.display()))
}

/// Durability as the server has it by default.
pub(crate) fn command(place: &Place) -> Result<Command> {
    let mut command = program("postgres", place)?;
    command.arg("-D").arg(place.folder.join("data"));
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"] {
        command.args(["-c", setting]);
    }
    if let Some(tls) = &place.tls {
        let file = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        for setting in [
            "ssl=on".to_owned(),
            file("ssl_ca_file", tls.ca()),
            file("ssl_cert_file", tls.certificate()),
            file("ssl_key_file", tls.key()),
        ] {
            command.args(["-c", &setting]);
        }
    }
    if place.is_german {
        // Of a locale that is no translation gettext asks this; so none has to be installed.
        command.env("LANGUAGE", "de");
    }
    command.arg("-p").arg(place.port.to_string());
    Ok(command)
}

/// What the server's program calls itself; its protocol tells the version only after logging in.
pub(crate) fn version() -> String {
    let program = programs::postgres_bin().map(|bin| bin.join("postgres").display().to_string());
    let line = program.and_then(|program| programs::output(&program, &["--version"])).unwrap_or_default();
    line.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

/// The superuser's.
pub(crate) fn url(place: &Place) -> String {
    format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", place.port)
}

fn program(name: &str, place: &Place) -> Result<Command> {
    let bin = programs::postgres_bin()
        .ok_or_else(|| Failure::new("PostgreSQL is not installed").remedy("run: cargo lab install"))?;
    let mut command = Command::new(bin.join(name));
    // The folder that the lab was started in may be closed to the other account.
    command.current_dir(&place.folder);
    if let Some((user, group)) = account()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// The account to run as, if the lab runs as root: `postgres`, or anyone.
fn account() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts: String = fs::read_to_string("/etc/passwd").doing(|| "reading /etc/passwd".to_owned())?;
    let ids = |name: &str| {
        let fields: Vec<&str> = accounts
            .lines()
            .map(|line| line.split(':').collect())
            .find(|f: &Vec<&str>| f.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .map(Some)
        .ok_or_else(|| Failure::new("no account to run PostgreSQL as: neither postgres nor nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_runs_it_as_somebody_else() {
        let account = account().unwrap();
        assert_eq!(account.is_some(), rustix::process::geteuid().is_root());
        assert!(account.is_none_or(|(user, _)| user != 0));
    }
}
