use std::path::PathBuf;

use super::super::values::{KEYS, Kind};
use super::super::{Settings, VaultConfig};
use super::*;

/// A file that goes with the value.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("leasehold-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
        Self(dir.join(name))
    }

    fn read(&self) -> Result<Values, ConfigError> {
        let mut values = Values::default();
        add(&mut values, &self.0)?;
        Ok(values)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn read(name: &str, text: &str) -> Result<Values, ConfigError> {
    Written::new(name, text).read()
}

fn settings(name: &str, text: &str) -> Result<Settings, ConfigError> {
    Settings::new(read(name, text)?)
}

/// One file of each kind that says the same.
fn files(name: &str, value: &str) -> [(&'static str, String); 5] {
    let yaml = format!("vault:\n  {name}: \"{value}\"\nother: {{ a: [1] }}\n");
    [
        ("a.toml", format!("[vault]\n{name} = \"{value}\"\n[other]\na = [1]\n")),
        ("a.yaml", yaml.clone()),
        ("a.yml", yaml),
        ("a.json", format!("{{\"vault\":{{\"{name}\":\"{value}\"}},\"other\":{{\"a\":[1]}}}}")),
        ("A.INI", format!("[vault]\n{name} = {value}\n[other]\na = 1\n")),
    ]
}

/// Every row of the table, in each of its names and each kind of file.
#[test]
fn every_setting_is_read_from_every_kind_of_file_under_each_of_its_names() {
    for key in KEYS {
        for name in key.also.iter().chain([&key.name]) {
            for (file, text) in files(name, " good ") {
                assert_eq!(
                    read(file, &text).unwrap().text(key.name),
                    Some("good"),
                    "{file} {name}"
                );
            }
        }
        if key.kind != Kind::Text {
            for (file, text) in files(key.name, "topsecret") {
                let e = settings(file, &text).unwrap_err();
                assert_eq!(e.setting(), format!("vault.{}", key.name));
                assert!(!e.to_string().contains("topsecret"), "{e}");
                assert!(e.to_string().contains(file), "names the file: {e}");
            }
        }
    }
}

#[test]
fn values_may_be_numbers_and_booleans_where_the_format_has_them() {
    let toml = "[vault]\nenabled = false\nkv_version = 2\nclient_timeout = 30\n\
                rate_limit = 2.5\naddr = \"https://a:1\"\n";
    let json = r#"{"vault": {"enabled": false, "kv_version": 2, "client_timeout": 30,
                "rate_limit": 2.5, "addr": "https://a:1", "namespace": null}}"#;
    let yaml = "vault:\n  enabled: no\n  kv_version: 2\n  client_timeout: 30\n  \
                rate_limit: 2.5\n  addr: https://a:1\n  namespace: ~\n";
    for (file, text) in [("a.toml", toml), ("a.json", json), ("a.yaml", yaml)] {
        let settings = settings(file, text).unwrap();
        assert_eq!((settings.enabled(), settings.kv_version()), (false, Some(2)), "{file}");
        let config: VaultConfig = settings.config().unwrap();
        assert_eq!(config.request_timeout.as_secs(), 30);
        assert!(config.rate_limit.is_some());
    }
}

#[test]
fn tables_may_take_the_place_of_an_underscore() {
    let toml = "[vault.kubernetes]\nrole = \"app\"\n[vault.tls]\nserver_name = \"v\"\n";
    let yaml = "vault:\n  kubernetes:\n    role: app\n  tls:\n    server_name: v\n";
    let json = r#"{"vault": {"kubernetes": {"role": "app"}, "tls": {"server": {"name": "v"}}}}"#;
    let ini = "[vault.kubernetes]\nrole=app\n[vault.tls]\nserver_name=v\n";
    for (file, text) in [("a.toml", toml), ("a.yaml", yaml), ("a.json", json), ("a.ini", ini)] {
        let values = read(file, text).unwrap();
        assert_eq!(values.text("kubernetes_role"), Some("app"), "{file}");
        assert_eq!(values.text("tls_server_name"), Some("v"), "{file}");
    }
}

#[test]
fn an_unknown_key_is_named_and_its_value_is_not_shown() {
    for (file, text) in files("tokn", "topsecret") {
        let e = read(file, &text).unwrap_err();
        assert_eq!(e.setting(), "vault.tokn");
        assert!(e.to_string().contains(file) && !e.to_string().contains("topsecret"), "{e}");
    }
    let e = read("a.toml", "[vault.approle]\nsecret_id = \"topsecret\"\n").unwrap_err();
    assert_eq!(e.setting(), "vault.approle.secret_id");
}

#[test]
fn a_value_of_the_wrong_shape_is_named_and_not_shown() {
    for (file, text) in [
        ("a.toml", "[vault]\ntoken = [\"topsecret\"]\n"),
        ("a.json", r#"{"vault": {"token": ["topsecret"]}}"#),
        ("a.yaml", "vault:\n  token:\n    - topsecret\n"),
        ("b.toml", "[vault]\ntoken = { value = \"topsecret\" }\n"),
        ("b.yaml", "vault:\n  token:\n    value: topsecret\n"),
    ] {
        let e = read(file, text).unwrap_err();
        assert!(e.setting().starts_with("vault.token"), "{e}");
        assert!(!e.to_string().contains("topsecret"), "{e}");
    }
    for (file, text) in
        [("a.toml", "vault = \"topsecret\"\n"), ("a.json", r#"{"vault": "topsecret"}"#)]
    {
        let e = read(file, text).unwrap_err();
        assert!(!e.to_string().contains("topsecret"), "{e}");
    }
}

#[test]
fn a_file_that_is_not_well_formed_is_named_with_the_line_and_nothing_of_it() {
    for (file, text, line) in [
        ("a.toml", "[vault]\naddr = \"x\"\ntoken = topsecret\n", "line 3"),
        ("a.toml", "[vault]\ntoken = \"topsecret\"\ntoken = \"topsecret\"\n", "line 3"),
        ("a.json", "{\"vault\": {\n\"token\": topsecret}}", "line 2"),
        ("a.yaml", "vault:\n  token: \"topsecret\n  x: 1\n", "line"),
        ("a.ini", "[vault]\ntopsecret\n", "line"),
    ] {
        let e = read(file, text).unwrap_err();
        let said = e.to_string();
        assert!(e.setting().ends_with(file), "{said}");
        assert!(said.contains("not well-formed") && said.contains(line), "{file}: {said}");
        assert!(!said.contains("topsecret"), "{said}");
    }
}

#[test]
fn a_file_that_is_missing_or_of_no_known_kind_is_named() {
    for (path, part) in [("/no/such.toml", "can't be read"), ("/no/such.conf", ".toml")] {
        let e = Settings::from_file(path).unwrap_err();
        assert_eq!(e.setting(), path);
        assert!(e.to_string().contains(part), "{e}");
    }
}

#[test]
fn a_key_under_two_names_and_two_ways_to_log_in_name_both() {
    let e = read("a.toml", "[vault]\nurl = \"https://a:1\"\naddr = \"https://b:1\"\n").unwrap_err();
    let said = e.to_string();
    assert!(said.contains("vault.url") && said.contains("vault.addr"), "{said}");

    // And the environment adds a contradiction as it adds anything else.
    let mut values = read("a.toml", "[vault]\nkubernetes_role = \"app\"\n").unwrap();
    values.add_variable("VAULT_TOKEN", "topsecret".into()).unwrap();
    let said = Settings::new(values).unwrap().auth().unwrap_err().to_string();
    assert!(said.contains("VAULT_TOKEN") && said.contains("vault.kubernetes_role"), "{said}");
    assert!(!said.contains("topsecret"), "{said}");
}
