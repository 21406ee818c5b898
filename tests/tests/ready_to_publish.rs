//! What a registry and its readers want of a crate, told by cargo itself.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

struct Workspace {
    packages: BTreeMap<String, Value>,
    /// By package id: what it is built from, tests left out.
    built_from: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    fn read() -> Self {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let said = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let all: Value = serde_json::from_slice(&said.stdout).unwrap();
        let packages = list(&all["packages"]).map(|p| (text(&p["id"]), p.clone())).collect();
        let built_from = list(&all["resolve"]["nodes"]).map(|node| {
            let deps = list(&node["deps"])
                .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"] != "dev"));
            (text(&node["id"]), deps.map(|dep| text(&dep["pkg"])).collect())
        });
        Self { packages, built_from: built_from.collect() }
    }

    /// Those that are ours and are published.
    fn published(&self) -> impl Iterator<Item = &Value> {
        self.packages.values().filter(|p| p["source"].is_null() && p["publish"].is_null())
    }

    /// All that `id` is built from, itself included.
    fn tree(&self, id: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let (id, deps) = self.built_from.get_key_value(id).unwrap();
            if seen.insert(id.as_str()) {
                todo.extend(deps.iter().map(String::as_str));
            }
        }
        seen
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// `1.89` and `1.89.0` are the same.
fn version(text: &str) -> Vec<u32> {
    let mut parts: Vec<_> = text.split('.').map(|n| n.parse().unwrap()).collect();
    parts.resize(3, 0);
    parts
}

#[test]
fn every_published_crate_says_what_it_is() {
    let workspace = Workspace::read();
    let names: Vec<_> = workspace.published().map(|p| text(&p["name"])).collect();
    assert!(names.len() >= 5, "{names:?}");
    for package in workspace.published() {
        let name = text(&package["name"]);
        for field in ["description", "license", "readme", "rust_version"] {
            assert!(package[field].is_string(), "{name} has no {field}");
        }
        for field in ["keywords", "categories"] {
            let given = list(&package[field]).count();
            assert!((1..=5).contains(&given), "{name} has {given} {field}, of at most 5");
        }
        let folder = text(&package["manifest_path"]);
        let folder = Path::new(&folder).parent().unwrap();
        // Whole texts, not the target of a link that somebody's checkout wrote out as a file.
        let readme = text(&package["readme"]);
        let files = [
            (readme.as_str(), "# "),
            ("LICENSE-MIT", "Permission is hereby granted"),
            ("LICENSE-APACHE", "Apache License"),
        ];
        for (file, part) in files {
            let text = std::fs::read_to_string(folder.join(file));
            let whole = text.as_ref().is_ok_and(|text| text.contains(part));
            assert!(whole, "{name} has no {file} with {part:?} in it: {text:?}");
        }
        let is_library = list(&package["targets"]).any(|t| list(&t["kind"]).any(|k| k == "lib"));
        if is_library {
            let docs = &package["metadata"]["docs"]["rs"];
            assert!(docs.is_object(), "{name} has no [package.metadata.docs.rs]");
            let features = package["features"].as_object().unwrap();
            let shown = docs["features"].as_array().cloned().unwrap_or_default();
            for feature in &shown {
                assert!(features.contains_key(feature.as_str().unwrap()), "{name}: {feature}");
            }
            // Features that are no user's are named here; all others are to be in the docs.
            let hidden = ["default", "simulation", "fuzzing"];
            for feature in features.keys().filter(|f| !hidden.contains(&f.as_str())) {
                assert!(shown.iter().any(|s| s == feature), "{name}: docs.rs without {feature}");
            }
        }
        // A path alone means nothing to whoever gets the crate from a registry.
        for dep in list(&package["dependencies"]).filter(|d| d["path"].is_string()) {
            if dep["kind"] != "dev" {
                assert_ne!(dep["req"], "*", "{name} depends on {} by path alone", dep["name"]);
            }
        }
    }
}

/// With one toolchain at hand, this and clippy's `incompatible_msrv` are what can be known.
#[test]
fn nothing_that_a_crate_is_built_from_needs_a_newer_rust_than_it_says() {
    let workspace = Workspace::read();
    for package in workspace.published() {
        let (name, ours) = (text(&package["name"]), text(&package["rust_version"]));
        for id in workspace.tree(package["id"].as_str().unwrap()) {
            let dep = &workspace.packages[id];
            let Some(needs) = dep["rust_version"].as_str() else { continue };
            assert!(
                version(needs) <= version(&ours),
                "{name} says Rust {ours}, and {} {} needs {needs}",
                dep["name"],
                dep["version"]
            );
        }
    }
}
