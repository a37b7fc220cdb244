//! Installs what is missing: Debian's packages, and servers from Debian unstable.

use std::process::{Command, ExitCode, Stdio};

use crate::debian::{LeftOut, SYSTEMS, System};
use crate::failure::{Doing as _, Failure, Result};
use crate::programs;
use crate::server::Kind;

/// Something that must be on this machine, and the package that brings it.
struct Need {
    package: &'static str,
    /// It is not needed if this server is named by the environment.
    server: Option<Kind>,
    found: fn() -> bool,
}

const NEEDS: [Need; 8] = [
    Need {
        package: "mariadb-server",
        server: Some(Kind::Mariadb),
        found: || programs::find("mariadbd").is_some() && programs::find("mariadb-install-db").is_some(),
    },
    Need {
        package: "postgresql",
        server: Some(Kind::Postgres),
        found: || programs::postgres_bin().is_some(),
    },
    Need {
        package: "rabbitmq-server",
        server: Some(Kind::Rabbitmq),
        found: || programs::rabbitmq_server().is_some() && programs::find("epmd").is_some(),
    },
    Need {
        package: "libmariadb-dev",
        server: None,
        found: || programs::library("libmariadb") || programs::library("mysqlclient"),
    },
    Need { package: "libpq-dev", server: None, found: || programs::library("libpq") },
    Need { package: "pkg-config", server: None, found: || programs::find("pkg-config").is_some() },
    Need { package: "faketime", server: None, found: || programs::faketime().is_some() },
    Need {
        package: "debootstrap",
        server: None,
        found: || {
            let is_to_come = |system: &&System| system.command_to_print().is_some();
            programs::find("debootstrap").is_some() || !SYSTEMS.iter().any(is_to_come)
        },
    },
];

/// Debian's packages start their servers when they are installed, on the standard ports; a policy forbids it.
/// One that is there already is left as it is. `"$@"` are the packages.
const APT: &str = r#"
policy=/usr/sbin/policy-rc.d
if ! test -e $policy; then
    trap 'rm -f $policy' EXIT INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo "lab: apt-get update failed; trying with the package lists that are there" >&2
apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
"#;

/// The verb `install`.
pub(crate) fn run(print: bool) -> Result<ExitCode> {
    if print {
        let packages = missing();
        if !packages.is_empty() {
            println!("{}", apt_command(&packages));
        }
        for command in SYSTEMS.iter().filter_map(|system| system.command_to_print()) {
            println!("{command}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let left_out = everything()?;
    let kinds: Vec<String> = left_out.iter().map(|left_out| left_out.kind.to_string()).collect();
    if kinds.is_empty() {
        eprintln!("lab: everything is installed");
    } else {
        eprintln!("lab: everything but {} is installed", kinds.join(" and "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; quick, and without the network, if nothing is. Only those from unstable may be
/// left out.
pub(crate) fn everything() -> Result<Vec<LeftOut>> {
    let packages = missing();
    if !packages.is_empty() {
        apt(&packages)?;
    }
    Ok(SYSTEMS.iter().filter_map(|system| system.ensure()).collect())
}

fn missing() -> Vec<&'static str> {
    NEEDS
        .iter()
        .filter(|need| need.server.is_none_or(|kind| kind.named().is_none()) && !(need.found)())
        .map(|need| need.package)
        .collect()
}

fn apt(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = || format!("run as root: {}", apt_command(packages));
    if programs::find("apt-get").is_none() {
        return Err(Failure::new(format!("missing on this machine: {names} (Debian's names)"))
            .remedy("install them with this system's package manager; apt-get is not here"));
    }
    let Some(mut shell) = privileged("sh") else {
        return Err(Failure::new(format!("missing on this machine: {names}; only root can install them"))
            .remedy(by_hand()));
    };
    eprintln!("lab: installing {names}");
    let status = shell
        .args(["-euc", APT, "lab"])
        .args(packages)
        .stdin(Stdio::null())
        // Standard output is kept for what the verbs print.
        .stdout(std::io::stderr())
        .status()
        .doing(|| "running apt-get".to_owned())?;
    let still = missing();
    if still.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("apt-get ended with {status}, and these are missing: {}", still.join(" ")))
        .remedy(by_hand()))
}

fn apt_command(packages: &[&str]) -> String {
    format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

/// That program as root: directly, or through sudo if it asks for no password.
pub(crate) fn privileged(program: &str) -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        return Some(Command::new(program));
    }
    programs::output("sudo", &["-n", "true"])?;
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    Some(command)
}
