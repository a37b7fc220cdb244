//! MySQL, out of the system that `mysql_sid` has unpacked.
//!
//! The server needs newer libraries than this machine has. It is started through the unpacked system's own
//! loader with that system's libraries, which needs neither a chroot nor root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mariadb::{as_root, names};
use super::tls::Tls;
use super::{PASSWORD, Place};
use crate::failure::{Doing as _, Failure, Result};
use crate::mysql_sid;
use crate::process;

/// Makes the system tables, and the statements that every start runs before it takes connections.
pub(crate) fn prepare(place: &Place) -> Result<()> {
    let statements = place.folder.join("init.sql");
    fs::write(&statements, accounts()).doing(|| format!("writing {}", statements.display()))?;
    let mut command = mysqld()?;
    command
        .args(["--initialize-insecure", "--innodb-flush-log-at-trx-commit=0"])
        .args(names(place))
        .arg(format!("--datadir={}", place.folder.join("data").display()))
        .arg(format!("--tmpdir={}", place.temporary.display()));
    process::run(command, &place.log)
}

/// Durability as the server has it by default, as for MariaDB.
pub(crate) fn command(place: &Place) -> Result<Command> {
    let folder = place.folder.display();
    let mut command = mysqld()?;
    command
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=500", "--mysqlx=OFF"])
        .args([
            "--innodb-buffer-pool-size=256M",
            "--binlog-row-metadata=FULL",
            "--secure-file-priv=NULL",
            "--local-infile=ON",
        ])
        .args(["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-bin=bin"])
        .arg(format!("--port={}", place.port))
        .arg(format!("--datadir={folder}/data"))
        .arg(format!("--tmpdir={}", place.temporary.display()))
        .arg(format!("--socket={folder}/socket"))
        .arg(format!("--pid-file={folder}/pid"))
        .arg(format!("--init-file={folder}/init.sql"))
        .arg(format!("--server-id={}", place.port))
        .args(names(place));
    command.args(place.tls.iter().flat_map(Tls::mysql_arguments));
    Ok(command)
}

/// Root by password from anywhere; `caching_sha2_password` is the only way of this version.
fn accounts() -> String {
    format!(
        "set sql_log_bin = 0;\n\
         create user if not exists root@'%' identified by '{PASSWORD}';\n\
         grant all privileges on *.* to root@'%' with grant option;\n\
         alter user root@localhost identified by '{PASSWORD}';\n"
    )
}

/// The server's program with what it needs to find its own files.
fn mysqld() -> Result<Command> {
    let system = mysql_sid::folder();
    let (loader, libraries) = loader(&system).ok_or_else(|| {
        Failure::new(format!("the MySQL in {} is not whole", system.display()))
            .remedy(format!("run: rm -r {} && cargo lab install", system.display()))
    })?;
    let usr = system.join("usr");
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(libraries)
        .arg(usr.join("sbin/mysqld"))
        .arg("--no-defaults")
        .arg(format!("--basedir={}", usr.display()))
        .arg(format!("--plugin-dir={}", usr.join("lib/mysql/plugin").display()))
        .args(as_root());
    Ok(command)
}

/// The dynamic loader and the folder of libraries; their names tell the processor.
fn loader(system: &Path) -> Option<(PathBuf, PathBuf)> {
    let entries = |folder: &str| fs::read_dir(system.join(folder)).into_iter().flatten().flatten();
    let named =
        |path: &Path, part: &str| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
    let libraries =
        entries("usr/lib").map(|e| e.path()).find(|path| named(path, "-linux-gnu") && path.is_dir())?;
    let loader =
        entries("lib64").chain(entries("lib")).map(|e| e.path()).find(|path| named(path, "ld-linux"))?;
    Some((loader, libraries))
}
