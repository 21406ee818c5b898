//! The table of metrics, the dashboard and the alert rules, held against what the crates record.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use leasehold::metrics::{Kind, Metric};
use leasehold::{ErrorKind, Reason};
use yaml_rust2::{Yaml, YamlLoader};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    let file = root().join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn all() -> Vec<Metric> {
    leasehold::metrics::ALL.iter().chain(leasehold_vault::metrics::ALL).copied().collect()
}

/// One that is queried, and the labels and values that it is asked for.
#[derive(Debug)]
struct Query {
    metric: String,
    matchers: Vec<(String, String)>,
}

/// The metrics of ours in a PromQL expression.
fn queries(expr: &str) -> Vec<Query> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(at) = rest.find("leasehold_") {
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (metric, after) = rest.split_at(end);
        rest = after;
        let mut matchers = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').unwrap();
            for matcher in inside.split("\",").filter(|m| !m.trim().is_empty()) {
                let (label, value) = matcher.split_once(['=', '!']).unwrap();
                let value = value.trim_matches(['=', '~', '"', ' ']);
                matchers.push((label.trim().to_owned(), value.to_owned()));
            }
            rest = after;
        }
        found.push(Query { metric: metric.to_owned(), matchers });
    }
    found
}

#[test]
fn queries_are_found_in_an_expression() {
    let expr = r#"rate(leasehold_a_total{x="1", y!~"2|3"}[5m]) / leasehold_b > time()"#;
    let found = format!("{:?}", queries(expr));
    assert_eq!(
        found,
        r#"[Query { metric: "leasehold_a_total", matchers: [("x", "1"), ("y", "2|3")] }, "#
            .to_owned()
            + r#"Query { metric: "leasehold_b", matchers: [] }]"#
    );
}

/// Which values a label of a metric can have; `None`: whatever it is named.
fn values(metric: &str, label: &str) -> Option<Vec<&'static str>> {
    let or_kinds = |others: &[&'static str]| {
        let kinds = ErrorKind::ALL.iter().map(|kind| kind.as_str());
        Some(kinds.chain(others.iter().copied()).collect())
    };
    match (metric, label) {
        ("leasehold_pool_connections", "state") => Some(vec!["idle", "in_use"]),
        ("leasehold_state", "state") => Some(vec!["ready", "degraded", "expired", "stopped"]),
        ("leasehold_logins_lost_total", "reason") => {
            Some(vec!["login_rejected", "session_revoked", "lease_lost"])
        }
        ("leasehold_rotations_total" | "leasehold_rotations_delayed_total", "reason") => {
            let reasons = Reason::ALL.iter().filter(|reason| **reason != Reason::Start);
            Some(reasons.map(|reason| reason.as_str()).collect())
        }
        ("leasehold_issues_total", "outcome") => or_kinds(&["ok"]),
        ("leasehold_renewals_total", "outcome") => or_kinds(&["ok", "last"]),
        ("leasehold_revocations_total", "outcome") => or_kinds(&["ok", "queued", "ended"]),
        ("leasehold_proofs_failed_total", "outcome") => Some(vec!["rejected", "unreachable"]),
        ("leasehold_vault_requests_total", "outcome") => or_kinds(&["ok", "cancelled"]),
        (_, "provider" | "session" | "pool" | "operation") => None,
        _ => panic!("which values {label} of {metric} can have is not said here"),
    }
}

/// What a scrape adds to every series.
const ADDED: &str = "instance";

/// Every metric, label and value in `expr` exists. Which labels its metrics have.
fn check(place: &str, expr: &str) -> BTreeSet<&'static str> {
    let all = all();
    let found = queries(expr);
    let mut labels = BTreeSet::from([ADDED]);
    for Query { metric, matchers } in &found {
        let parts = ["_bucket", "_sum", "_count"];
        let known = all.iter().find(|m| {
            let as_parts = || parts.iter().any(|p| metric.strip_suffix(p) == Some(m.name));
            if m.kind == Kind::Histogram { as_parts() } else { m.name == metric }
        });
        let known = known.unwrap_or_else(|| panic!("{place}: there is no {metric} in {expr}"));
        labels.extend(known.labels);
        // Those of the grafana variables too.
        for (label, _) in matchers {
            let there = known.labels.contains(&&**label) || label == ADDED;
            assert!(there, "{place}: {metric} has no label {label}");
        }
        for (label, asked) in matchers.iter().filter(|(_, value)| !value.starts_with('$')) {
            let possible = values(metric, label);
            for value in asked.split('|') {
                let there = possible.as_ref().is_none_or(|possible| possible.contains(&value));
                assert!(there, "{place}: {metric} has no {label} {value:?}");
            }
        }
    }
    // What is summed by, or left out, is a label of what is asked for.
    for word in ["by (", "without (", "ignoring ("] {
        for piece in expr.split(word).skip(1) {
            let list = piece.split(')').next().unwrap();
            for label in list.split(',').map(str::trim) {
                let known = labels.contains(label) || label == "le";
                assert!(known, "{place}: no label {label} in {expr}");
            }
        }
    }
    assert!(!found.is_empty(), "{place} asks for nothing of ours");
    labels
}

/// What a text shows of a series is one of its labels.
fn check_shown(place: &str, text: &str, labels: &BTreeSet<&str>) {
    for piece in text.split("{{").skip(1) {
        let shown = piece.split("}}").next().unwrap().trim();
        let label = shown.strip_prefix("$labels.").unwrap_or(shown);
        let value = shown.starts_with("$value");
        assert!(value || labels.contains(label), "{place}: {label} is no label of its series");
    }
}

#[test]
fn the_table_in_the_docs_is_what_is_recorded() {
    let table: Vec<String> = all()
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            let kind = format!("{:?}", metric.kind).to_lowercase();
            format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
        })
        .collect();
    let written = read("docs/observability.md");
    let written: Vec<_> = written.lines().filter(|l| l.starts_with("| `leasehold_")).collect();
    // Spans are in a table too.
    let written: Vec<_> =
        written.into_iter().filter(|l| !l.contains("`leasehold_vault.")).collect();
    assert_eq!(written, table, "\n{}\n", table.join("\n"));
}

#[test]
fn each_alert_asks_for_what_there_is_and_names_what_to_do() {
    let rules = YamlLoader::load_from_str(&read("deploy/prometheus/alerts.yml")).unwrap();
    let docs = read("docs/observability.md");
    let sections: BTreeSet<_> = (docs.lines().filter_map(|line| line.strip_prefix("### ")))
        .filter(|title| title.starts_with("Leasehold"))
        .collect();
    let mut alerts = BTreeSet::new();
    for rule in rules[0]["groups"][0]["rules"].as_vec().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(alerts.insert(name), "{name} twice");
        let labels = check(name, rule["expr"].as_str().unwrap());
        check_shown(name, rule["annotations"]["summary"].as_str().unwrap(), &labels);
        let anchor = format!("docs/observability.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"].as_str(), Some(&*anchor), "{name}");
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{name}: {severity:?}");
    }
    assert_eq!(alerts, sections, "an alert for each section, and the other way round");
    let tests = ["alerts_test.yml", "alerts_by_day_test.yml"];
    let tests = tests.map(|name| read(&format!("deploy/prometheus/{name}")));
    for text in &tests {
        check_series(&YamlLoader::load_from_str(text).unwrap()[0]);
    }
    let tests = tests.concat();
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is never seen to fire");
    }
}

/// The tests of the rules feed them what there is.
fn check_series(tests: &Yaml) {
    for test in tests["tests"].as_vec().unwrap() {
        for series in test["input_series"].as_vec().unwrap() {
            check("alerts_test.yml", series["series"].as_str().unwrap());
        }
    }
}

#[test]
fn each_panel_of_the_dashboard_asks_for_what_there_is() {
    let board: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/leasehold.json")).unwrap();
    let mut asked = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another panel's");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            check_shown(title, target["legendFormat"].as_str().unwrap(), &check(title, expr));
            // Each process is one series, unless they are taken together.
            let each = !expr.contains("by (") || expr.contains("by (instance");
            let told_apart = target["legendFormat"].as_str().unwrap().contains("{{instance}}");
            assert_eq!(each, told_apart, "{title}: {expr}");
            // What is shown as one number is the last one, not that of an ended series.
            if panel["type"] == "stat" {
                assert_eq!(target["instant"], true, "{title}");
            }
            for query in queries(expr) {
                asked.insert(query.metric, title.to_owned());
            }
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap();
        if variable["type"] == "query" {
            let labels = check("a variable", query);
            let asked = query.trim_end_matches(')').rsplit(", ").next().unwrap();
            assert!(labels.contains(asked), "{query}");
        }
    }
    // Nothing is recorded for nobody.
    let rules = read("deploy/prometheus/alerts.yml");
    for metric in all() {
        let used = asked.keys().any(|name| name.starts_with(metric.name));
        assert!(used || rules.contains(metric.name), "{} is on no panel", metric.name);
    }
}
