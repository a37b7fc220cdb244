//! MariaDB, Debian's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::tls::Tls;
use super::{PASSWORD, Place};
use crate::failure::{Doing as _, Failure, Result};
use crate::process;
use crate::programs;

/// Makes the system tables, and the statements that every start runs before it takes connections.
pub(crate) fn prepare(place: &Place) -> Result<()> {
    let statements = place.folder.join("init.sql");
    fs::write(&statements, accounts()).doing(|| format!("writing {}", statements.display()))?;
    let mut command = Command::new(program("mariadb-install-db")?);
    command
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"])
        .arg(format!("--datadir={}", place.folder.join("data").display()))
        .arg(format!("--tmpdir={}", place.temporary.display()))
        .args(as_root());
    process::run(command, &place.log)
}

/// Durability as the server has it by default: a test of crashes must not pass by luck, nor a benchmark.
pub(crate) fn command(place: &Place) -> Result<Command> {
    let folder = place.folder.display();
    let mut command = Command::new(program("mariadbd")?);
    command
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=500"])
        .args(["--innodb-buffer-pool-size=256M", "--binlog-format=ROW", "--binlog-row-metadata=FULL"])
        .arg(format!("--port={}", place.port))
        .arg(format!("--datadir={folder}/data"))
        .arg(format!("--tmpdir={}", place.temporary.display()))
        .arg(format!("--socket={folder}/socket"))
        .arg(format!("--pid-file={folder}/pid"))
        .arg(format!("--init-file={folder}/init.sql"))
        .arg("--log-bin=bin")
        // Any that differs from those that the tests' replication clients take.
        .arg(format!("--server-id={}", place.port))
        .args(names(place))
        .args(as_root());
    command.args(place.tls.iter().flat_map(Tls::mysql_arguments));
    Ok(command)
}

/// Root by password from anywhere. The accounts without a name and without a password that the installation
/// makes would be taken before it, since their hosts are more exact.
fn accounts() -> String {
    format!(
        "set sql_log_bin = 0;\n\
         delete from mysql.global_priv where user = '' or (user = 'root' and host not in ('localhost', '%'));\n\
         delete from mysql.proxies_priv;\n\
         flush privileges;\n\
         create user if not exists root@'%' identified by '{PASSWORD}';\n\
         grant all privileges on *.* to root@'%' with grant option;\n\
         alter user root@localhost identified by '{PASSWORD}';\n"
    )
}

/// How names of tables are stored; MySQL has to know it from the beginning.
pub(crate) fn names(place: &Place) -> Option<&'static str> {
    place.is_lower_case.then_some("--lower-case-table-names=1")
}

/// The servers refuse to run as root unless told to.
pub(crate) fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

fn program(name: &str) -> Result<PathBuf> {
    programs::find(name)
        .ok_or_else(|| Failure::new(format!("{name} is not installed")).remedy("run: cargo lab install"))
}
