//! What packaging/ hands to others: its commands are ones that the program takes, its configuration is one that it reads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use outbox_relay::config::{Environment, from_text};
use serde_json::Value;

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

/// The documents of a file of YAML.
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands at a path; `null` if nothing does.
fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|named| named["name"].as_str().unwrap()).collect()
}

#[test]
fn the_manifest_for_kubernetes_fits_together_and_to_the_program() {
    let documents = documents("kubernetes.yaml");
    let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Secret", "ConfigMap", "Deployment", "PodDisruptionBudget"]);
    let [secret, map, deployment, budget] = &documents[..] else { unreachable!() };

    let values: BTreeMap<String, String> = secret["stringData"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(values.len(), 3, "{:?}", values.keys());
    let toml = map["data"]["outbox-relay.toml"].as_str().unwrap();
    let config = from_text(toml, &Environment::of(values)).unwrap();
    assert_eq!(config.outbox.len(), 1);

    let pod = at(deployment, "/spec/template");
    let labels = at(pod, "/metadata/labels");
    assert_ne!(labels, &Value::Null);
    for selector in [
        at(deployment, "/spec/selector/matchLabels"),
        at(pod, "/spec/topologySpreadConstraints/0/labelSelector/matchLabels"),
        at(budget, "/spec/selector/matchLabels"),
    ] {
        assert_eq!(selector, labels);
    }
    assert!(at(budget, "/spec/minAvailable").as_u64() < at(deployment, "/spec/replicas").as_u64());
    assert_eq!(at(pod, "/spec/securityContext/runAsNonRoot"), true);

    let container = at(pod, "/spec/containers/0");
    takes(&texts(&container["args"]));
    assert_eq!(at(container, "/envFrom/0/secretRef/name"), at(secret, "/metadata/name"));
    assert_eq!(at(container, "/securityContext/readOnlyRootFilesystem"), true);
    let port = config.admin.listen.rsplit_once(':').unwrap().1;
    assert_eq!(at(container, "/ports/0/containerPort").to_string(), port);
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(at(&container[probe], "/httpGet/port"), at(container, "/ports/0/name"));
        assert_eq!(at(&container[probe], "/httpGet/path"), path);
    }
    let volumes = at(pod, "/spec/volumes");
    assert_eq!(names(&container["volumeMounts"]), names(volumes));
    assert_eq!(at(volumes, "/0/configMap/name"), at(map, "/metadata/name"));
    assert_eq!(
        at(container, "/volumeMounts/0/mountPath"),
        "/etc/outbox-relay",
        "the container's working folder"
    );
}

#[test]
fn each_alert_for_prometheus_says_what_and_how_bad() {
    let documents = documents("prometheus-alerts.yaml");
    let [document] = &documents[..] else { panic!("{} documents", documents.len()) };
    let groups = document["groups"].as_array().unwrap();
    let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 5, "{} alerts", rules.len());
    for rule in rules {
        assert!(rule["alert"].is_string(), "{rule}");
        assert!(rule["expr"].is_string(), "{rule}");
        let severity = at(rule, "/labels/severity").as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{rule}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{text} of {rule}");
        }
    }
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
