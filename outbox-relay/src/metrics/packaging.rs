//! What packaging/ builds on metrics: every name in the dashboard and in the alerts is one that `/metrics` prints.

use std::collections::BTreeSet;

const DASHBOARD: &str = include_str!("../../../packaging/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../packaging/prometheus-alerts.yaml");

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("outbox_relay_")).collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let printed = super::tests::full_text();
    let known = named(&printed);
    for (file, text) in [("grafana-dashboard.json", DASHBOARD), ("prometheus-alerts.yaml", ALERTS)] {
        let names = named(text);
        assert!(names.len() > 8, "{file}: {names:?}");
        let unknown: Vec<_> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names what /metrics does not print: {unknown:?}\n{printed}");
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_ask_for_something() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asking = panels.iter().filter(|panel| panel["type"] != "row");
    for panel in asking {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}
