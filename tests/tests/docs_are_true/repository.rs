//! What there is in the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// The root.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> =
        LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned());
    &ROOT
}

/// A file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All files but what is built, by their paths from the root.
pub(crate) fn files() -> &'static [String] {
    static FILES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let (mut found, mut folders) = (Vec::new(), vec![root().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap().map(Result::unwrap) {
                let (path, name) = (entry.path(), entry.file_name());
                // Also where each kind of build leaves its own.
                let built = name == "target" || name == "corpus" || name == "artifacts";
                if entry.file_type().unwrap().is_dir() {
                    if !built && name != ".git" {
                        folders.push(path);
                    }
                } else {
                    found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    });
    &FILES
}

/// All that is no prose: programs, scripts, settings.
pub(crate) fn code() -> &'static str {
    static CODE: LazyLock<String> = LazyLock::new(|| {
        let endings = [".rs", ".sh", ".yml", ".yaml", ".toml", ".sql", ".json", ".hcl", ".js"];
        let code = files().iter().filter(|file| {
            let named = file.rsplit('/').next().unwrap().starts_with("Dockerfile");
            let script = [".ci/run", "fuzz/run"].contains(&file.as_str());
            // These tests name what they look for.
            let ours = file.starts_with("tests/tests/docs_are_true/");
            !ours && (named || script || endings.iter().any(|end| file.ends_with(end)))
        });
        code.map(|file| read(file)).collect::<Vec<_>>().join("\n")
    });
    &CODE
}

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    /// From the root.
    pub(crate) folder: String,
    pub(crate) version: String,
    pub(crate) features: Vec<String>,
    /// (kind, name)
    pub(crate) targets: Vec<(String, String)>,
}

/// All packages by name, as cargo sees them.
pub(crate) fn packages() -> &'static BTreeMap<String, Package> {
    static PACKAGES: LazyLock<BTreeMap<String, Package>> = LazyLock::new(|| {
        let mut cargo = Command::new(env!("CARGO"));
        let told = cargo
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let package = |p: &Value| {
            let manifest = PathBuf::from(text(&p["manifest_path"]));
            let folder = manifest.parent().unwrap().strip_prefix(root()).unwrap();
            let target = |t: &Value| (text(&t["kind"][0]), text(&t["name"]));
            Package {
                folder: folder.to_str().unwrap().to_owned(),
                version: text(&p["version"]),
                features: p["features"].as_object().unwrap().keys().cloned().collect(),
                targets: p["targets"].as_array().unwrap().iter().map(target).collect(),
            }
        };
        told["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (text(&p["name"]), package(p)))
            .collect()
    });
    &PACKAGES
}

/// A path that is named in `folder`, from the root; nothing if it leads out of the repository.
pub(crate) fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
