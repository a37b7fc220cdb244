//! What packaging/ hands to others: its commands are ones that the program takes, its configuration is one that it reads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use outbox_relay::config::{Environment, from_text};

use crate::harness::program;

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether the program knows these arguments; it does nothing with them.
fn takes(arguments: &[&str]) {
    let ended = Command::new(program("outbox-relay")).args(arguments).arg("--help").output().unwrap();
    assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// The words between quotes of a list in brackets.
fn words(line: &str) -> Vec<&str> {
    line.split('"').skip(1).step_by(2).collect()
}

/// The lines of a block that are indented further than its first word, without that.
fn block(yaml: &str, head: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim_start() != head);
    let first = lines.next().unwrap_or_else(|| panic!("no {head:?}"));
    let depth = first.len() - first.trim_start().len();
    let is_in = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > depth;
    lines.take_while(is_in).map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn the_configuration_for_kubernetes_is_read_with_the_values_of_its_secret() {
    let yaml = file("kubernetes.yaml");
    assert!(!yaml.contains('\t'), "YAML takes no tabs");
    let secret = block(&yaml, "stringData:");
    let secret: BTreeMap<String, String> = secret
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(secret.len(), 3, "{secret:?}");
    let toml = block(&yaml, "outbox-relay.toml: |");
    let config = from_text(&toml, &Environment::of(secret)).unwrap();
    assert_eq!(config.outbox.len(), 1);
    let port = config.admin.listen.rsplit_once(':').unwrap().1;
    assert!(yaml.contains(&format!("containerPort: {port}")), "{port}");
    let arguments = yaml.lines().find(|line| line.trim_start().starts_with("args: ")).unwrap();
    takes(&words(arguments));
}

#[test]
fn the_commands_of_the_container_are_ones_that_the_program_takes() {
    let text = file("Containerfile");
    let commands: Vec<_> = text.lines().filter(|line| line.contains("CMD [")).collect();
    assert_eq!(commands.len(), 2, "what it runs and what asks after its health: {commands:?}");
    for line in commands {
        let words = words(line);
        takes(words.strip_prefix(&["/usr/bin/outbox-relay"]).unwrap_or(&words));
    }
}

#[test]
fn the_unit_of_systemd_is_well_formed_and_starts_what_the_program_takes() {
    let text = file("outbox-relay.service");
    let mut started = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no setting"));
        assert!(key.starts_with(|c: char| c.is_ascii_uppercase()) && key.is_ascii(), "{line:?}");
        if key == "ExecStart" {
            started = value.split(' ').collect();
        }
    }
    let [path, arguments @ ..] = &started[..] else { panic!("nothing is started") };
    assert_eq!(*path, "/usr/bin/outbox-relay", "where the Debian package puts it");
    takes(arguments);

    // systemd itself knows more, where it is installed.
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("outbox-relay.service");
    std::fs::write(&unit, text.replace(path, program("outbox-relay").to_str().unwrap())).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output() {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(!said.contains("outbox-relay.service:"), "{said}");
        }
        Err(error) => println!("not verified by systemd: systemd-analyze: {error}"),
    }
}
