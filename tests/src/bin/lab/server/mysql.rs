//! MySQL, out of a system that `debian` has unpacked.

use std::fs;
use std::process::Command;

use super::mariadb::{as_root, names};
use super::tls::Tls;
use super::{PASSWORD, Place};
use crate::debian::MYSQL;
use crate::failure::{Doing as _, Result};
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
    let (loader, libraries) = MYSQL.loader()?;
    let usr = MYSQL.folder().join("usr");
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
