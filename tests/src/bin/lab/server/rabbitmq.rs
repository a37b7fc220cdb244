//! RabbitMQ with its management API: this machine's, or version 4 out of a system that `debian` has unpacked.

use std::env;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tls::{Mode, Tls};
use super::{Kind, Place};
use crate::debian::RABBITMQ_4;
use crate::failure::{Doing as _, Failure, Result};
use crate::process;
use crate::programs;

/// Erlang's name server is started here, in the server's process group: the one that Erlang would start by
/// itself leaves the group and lives on. Beside another node of a cluster that one's is found, and this one ends at
/// once. The listener for other nodes is kept on loopback too.
const START: &str = r#"
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
exec "$0"
"#;

const COOKIE: &str = ".erlang.cookie";

/// Writes its configuration.
pub(crate) fn prepare(place: &Place) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = place.folder.join(name);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))
    };
    let [management, ..] = place.more_ports;
    let external = if place.tls.is_some() { ",rabbitmq_auth_mechanism_ssl" } else { "" };
    let peer = match &place.peer {
        Some(peer) => {
            // What nodes know each other by.
            let (from, to) = (peer.folder.join(COOKIE), place.folder.join(COOKIE));
            fs::copy(&from, &to).doing(|| format!("copying {} to {}", from.display(), to.display()))?;
            format!(
                "cluster_formation.peer_discovery_backend = rabbit_peer_discovery_classic_config\n\
                 cluster_formation.classic_config.nodes.1 = {}@localhost\n",
                peer.name
            )
        }
        None => String::new(),
    };
    if place.kind == Kind::Rabbitmq4 {
        write_erlang(&erlang(place))?;
    }
    write("enabled_plugins", &format!("[rabbitmq_management{external}].\n"))?;
    // No settings of the machine's own RabbitMQ.
    write("env.conf", "")?;
    write("advanced.config", "[].\n")?;
    write(
        "rabbitmq.conf",
        &format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n\
             disk_free_limit.absolute = 50MB\n\
             {peer}{}",
            place.port,
            place.tls.as_ref().map(with_tls).unwrap_or_default()
        ),
    )
}

/// A port with TLS besides. A client may log in by its certificate, whose common name is the user's then.
fn with_tls(tls: &Tls) -> String {
    let is_mutual = tls.mode == Mode::Mutual;
    format!(
        "listeners.ssl.1 = 127.0.0.1:{}\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = {}\n\
         ssl_options.fail_if_no_peer_cert = {is_mutual}\n\
         ssl_cert_login_from = common_name\n\
         auth_mechanisms.1 = PLAIN\n\
         auth_mechanisms.2 = AMQPLAIN\n\
         auth_mechanisms.3 = EXTERNAL\n",
        tls.port,
        tls.ca().display(),
        tls.certificate().display(),
        tls.key().display(),
        if is_mutual { "verify_peer" } else { "verify_none" },
    )
}

/// Starts it.
pub(crate) fn command(place: &Place) -> Result<Command> {
    let script = script(place, "rabbitmq-server")?;
    let folder = &place.folder;
    let [_, distribution, _] = place.more_ports;
    let mut command = Command::new("sh");
    in_its_own_world(&mut command, place)
        .args(["-c", START])
        .arg(script)
        // The script becomes the broker instead of waiting for it.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env_remove("NOTIFY_SOCKET")
        .env("RABBITMQ_NODE_PORT", place.port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        // What it prints before it can log goes there too.
        .env("RABBITMQ_LOGS", &place.log)
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"));
    Ok(command)
}

/// Runs `rabbitmqctl` on it.
pub(crate) fn control(place: &Place, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(script(place, "rabbitmqctl")?);
    in_its_own_world(&mut command, place).args(arguments);
    process::run(command, &place.log)
}

/// One of RabbitMQ's start scripts.
fn script(place: &Place, name: &str) -> Result<PathBuf> {
    let server = match place.kind {
        Kind::Rabbitmq4 => Some(RABBITMQ_4.program()),
        _ => programs::rabbitmq_server(),
    };
    server
        .map(|server| server.with_file_name(name))
        .ok_or_else(|| Failure::new("RabbitMQ is not installed").remedy("run: cargo lab install"))
}

/// Where RabbitMQ 4 finds Erlang.
fn erlang(place: &Place) -> PathBuf {
    place.folder.join("erlang")
}

/// Scripts in the place of Erlang's programs, each of which starts its own through the unpacked system's loader. Erlang
/// finds its programs by `BINDIR`, and its modules by `ROOTDIR`; escripts look for `erl` beside themselves if they are
/// not told.
fn write_erlang(folder: &Path) -> Result<()> {
    let root = RABBITMQ_4.folder().join("usr/lib/erlang");
    let (loader, libraries) = RABBITMQ_4.loader()?;
    fs::create_dir(folder).doing(|| format!("creating {}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n"))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .doing(|| format!("writing {}", path.display()))
    };
    let entries =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let runtime = entries(&root).find(|path| path.join("bin/beam.smp").is_file());
    let programs = runtime.into_iter().flat_map(|runtime| entries(&runtime.join("bin")));
    for program in programs.filter(|path| is_elf(path)) {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let start = [&loader, &libraries, &program].map(|path| path.display().to_string());
        let [loader, libraries, program] = &start;
        write(&name, &format!("exec '{loader}' --library-path '{libraries}' '{program}' \"$@\""))?;
    }
    write(
        "erl",
        &format!(
            "export EMU=beam PROGNAME=erl ROOTDIR='{}' BINDIR='{}'\nexec \"$BINDIR/erlexec\" \"$@\"",
            root.display(),
            folder.display()
        ),
    )
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"\x7fELF"
}

/// The environment names the node and where its files are, so that nothing is shared with another one.
fn in_its_own_world<'a>(command: &'a mut Command, place: &Place) -> &'a mut Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("RABBITMQ_") {
            command.env_remove(name);
        }
    }
    if place.kind == Kind::Rabbitmq4 {
        let erlang = erlang(place);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([erlang.clone()].into_iter().chain(env::split_paths(&path)));
        command.env("PATH", path.unwrap_or_default()).env("ESCRIPT_EMULATOR", erlang.join("erl"));
    }
    let [_, _, names] = place.more_ports;
    command
        .env("HOME", &place.folder)
        .env("ERL_EPMD_PORT", names.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("{}@localhost", place.name))
        .env("RABBITMQ_CONF_ENV_FILE", place.folder.join("env.conf"))
        .current_dir(&place.folder)
}

/// The account `guest` is RabbitMQ's own administrator, for connections from loopback.
pub(crate) fn url(place: &Place) -> String {
    format!("amqp://guest:guest@127.0.0.1:{}/%2f", place.port)
}

/// The management API's.
pub(crate) fn management_url(place: &Place) -> String {
    format!("http://guest:guest@127.0.0.1:{}", place.more_ports[0])
}
