use super::values::{KEYS, Key, Kind};
use super::*;
use crate::auth::Auth;

fn values(variables: &[(&str, &str)]) -> Result<Values, ConfigError> {
    let mut values = Values::default();
    for (name, value) in variables {
        values.add_variable(name, (*value).to_owned())?;
    }
    Ok(values)
}

fn from(variables: &[(&str, &str)]) -> Result<VaultConfig, ConfigError> {
    VaultConfig::from_values(&values(variables)?)
}

fn settings(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::new(values(variables)?)
}

/// One that this setting takes, and one that it does not, if there is such.
fn sample(key: &Key) -> (&'static str, Option<&'static str>) {
    match key.kind {
        Kind::Text => ("text", None),
        Kind::Flag => ("true", Some("perhaps")),
        Kind::Duration => ("30s", Some("30 parsecs")),
        Kind::Size => ("64KiB", Some("large")),
        Kind::Rate => ("10:20", Some("fast")),
        Kind::Count => ("8", Some("0")),
        Kind::KvVersion => ("2", Some("3")),
    }
}

#[test]
fn the_table_in_the_docs_has_a_row_for_each_setting() {
    let documented: Vec<(String, String)> = include_str!("settings.md")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let mut cells = line.split('|').map(|cell| cell.trim().replace('`', ""));
            cells.next();
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    let known: Vec<_> = KEYS.iter().map(|key| (key.name.to_owned(), key.also.join(", "))).collect();
    assert_eq!(documented, known);
}

/// Every row of the table, in each of its spellings.
#[test]
fn every_setting_is_read_under_each_of_its_names_and_judged_by_its_kind() {
    for key in KEYS {
        let (good, bad) = sample(key);
        let upper = key.name.to_ascii_uppercase();
        let mut spellings = vec![
            format!("VAULT_{upper}"),
            format!("BAO_{upper}"),
            format!("VAULT__{upper}"),
            format!("BAO__{}", upper.replace('_', "__")),
        ];
        let others = key.also.iter().map(|name| format!("VAULT__{}", name.to_ascii_uppercase()));
        spellings.extend(others);
        for name in spellings {
            let set = values(&[(&name, good)]).unwrap();
            assert_eq!(set.text(key.name), Some(good), "{name}");
            let found = settings(&[(&name, good)]);
            assert!(found.is_ok(), "{name}: {found:?}");
            if let Some(bad) = bad {
                let e = settings(&[(&name, bad)]).unwrap_err();
                assert_eq!(e.setting(), name);
                assert!(!e.to_string().contains(bad), "{e}");
            }
        }
        for also in key.also {
            let foreign = format!("VAULT_{}", also.to_ascii_uppercase());
            assert_eq!(values(&[(&foreign, good)]).unwrap().text(key.name), None, "{foreign}");
        }
    }
}

/// What wins, from the last to the first.
#[test]
fn every_setting_obeys_the_order_of_the_spellings() {
    for key in KEYS {
        let upper = key.name.to_ascii_uppercase();
        let mut set = Values::default();
        #[cfg(feature = "config-file")]
        set.add_from_file("a.toml", &[key.name.to_owned()], "file".into()).unwrap();
        let names = ["VAULT__", "VAULT_", "BAO__", "BAO_"].map(|p| format!("{p}{upper}"));
        for name in &names {
            set.add_variable(name, name.clone()).unwrap();
            assert_eq!(set.text(key.name), Some(name.as_str()));
        }
        // In whatever order they come; and an empty one is not there.
        set.add_variable(&names[0], "late".into()).unwrap();
        set.add_variable(&names[3], " ".into()).unwrap();
        assert_eq!(set.text(key.name), Some(names[3].as_str()));
    }
}

#[test]
fn no_address_in_the_environment_names_the_variable() {
    for variables in [&[][..], &[("VAULT_ADDR", "  ")]] {
        let e = from(variables).unwrap_err();
        assert_eq!(e.setting(), "VAULT_ADDR");
        assert!(e.to_string().contains("BAO_ADDR"), "{e}");
    }
}

#[test]
fn the_environment_is_trimmed_and_bao_wins() {
    let config = from(&[
        ("VAULT_ADDR", "http://a:1\n"),
        ("BAO_ADDR", " http://b:2 "),
        ("VAULT_NAMESPACE", "/team1/"),
    ])
    .unwrap();
    assert_eq!(config.address, "http://b:2");
    assert_eq!(config.address_from, "BAO_ADDR");
    assert_eq!(config.namespace.as_deref(), Some("team1"));
}

#[test]
fn what_is_set_reaches_the_configuration() {
    let config = from(&[
        ("VAULT_ADDR", "https://a:1"),
        ("VAULT_TLS_SERVER_NAME", "vault.internal"),
        ("VAULT_SKIP_VERIFY", "1"),
        ("VAULT_CLIENT_TIMEOUT", "60"),
        ("VAULT_MINT_TIMEOUT", "2m"),
        ("VAULT_RATE_LIMIT", "10:20"),
        ("VAULT_MAX_IN_FLIGHT", "4"),
        ("VAULT_MAX_RESPONSE", "64KiB"),
        ("VAULT_CAPATH", "/etc/authorities"),
        ("VAULT_HTTP_PROXY", "http://old:1"),
        ("VAULT_PROXY_ADDR", "http://new:2"),
    ])
    .unwrap();
    assert_eq!(config.tls_server_name.unwrap().1, "vault.internal");
    assert!(config.skip_verify);
    assert_eq!(config.request_timeout, Duration::from_secs(60));
    assert_eq!(config.mint_timeout, Duration::from_secs(120));
    assert_eq!(config.rate_limit, RateLimit::new(10.0, Some(20)));
    assert_eq!(config.max_in_flight, 4);
    assert_eq!(config.max_response, 65536);
    assert!(matches!(config.ca, Some(Ca::Dir { .. })));
    assert_eq!(config.proxy.unwrap().1.as_str(), "http://new:2");

    let usual = from(&[("VAULT_ADDR", "https://a:1"), ("VAULT_HTTP_PROXY", "p:1")]).unwrap();
    assert_eq!(usual.proxy.unwrap().1.as_str(), "p:1");
    assert_eq!(usual.request_timeout, REQUEST_TIMEOUT, "the mint has a timeout of its own");
    assert!(!usual.skip_verify && usual.rate_limit.is_none());
    assert_eq!(usual.max_in_flight, 16);
}

/// A rotator takes a mint that is older for lost, and asks for another.
#[tokio::test]
async fn i7_a_mint_timeout_above_two_minutes_is_named() {
    for name in ["VAULT_MINT_TIMEOUT", "BAO_MINT_TIMEOUT"] {
        let e = from(&[("VAULT_ADDR", "https://a:1"), (name, "121s")]).unwrap_err();
        assert_eq!(e.setting(), name);
        assert!(e.to_string().contains("120 s"), "{e}");
    }
    let config = VaultConfig::new("https://a:1").mint_timeout(Duration::from_secs(121));
    let e = crate::Session::login(config, Auth::token("s.unused")).await.unwrap_err();
    assert!(e.to_string().starts_with("mint_timeout ") && e.to_string().contains("120 s"), "{e}");
}

#[test]
fn settings_say_what_sources_are_to_be_made_of() {
    let settings = settings(&[
        ("VAULT_ENABLED", "no"),
        ("VAULT_MOUNT_PATH", "secret"),
        ("VAULT_KV_VERSION", "v2"),
        ("VAULT_SECRET_PATH", "apps/orders"),
        ("VAULT_DATABASE_ROLE", "orders-rw"),
    ])
    .unwrap();
    assert!(!settings.enabled());
    assert_eq!(settings.kv_version(), Some(2));
    let of = [settings.mount_path(), settings.secret_path(), settings.database_role()];
    assert_eq!(of, [Some("secret"), Some("apps/orders"), Some("orders-rw")]);
    assert!(super::tests::settings(&[]).unwrap().enabled());
}

#[test]
fn a_nested_variable_that_is_unknown_is_named_and_other_programs_are_left_alone() {
    let e = settings(&[("VAULT__ADRR", "https://a:1")]).unwrap_err();
    assert_eq!(e.setting(), "VAULT__ADRR");
    assert!(e.to_string().contains("addr, namespace"), "{e}");
    assert!(!e.to_string().contains("https"), "{e}");
    settings(&[("VAULT_FORMAT", "json"), ("VAULT_SERVICE_HOST", "10.0.0.1"), ("VAULTX", "1")])
        .unwrap();
}

#[test]
fn one_setting_under_two_names_of_the_same_rank_names_both() {
    let e = settings(&[("VAULT__URL", "https://a:1"), ("VAULT__ADDR", "https://b:1")]).unwrap_err();
    assert!(e.to_string().contains("VAULT__URL") && e.to_string().contains("VAULT__ADDR"), "{e}");
}

#[test]
fn a_certificate_file_that_is_not_there_names_the_variable() {
    for name in ["VAULT_CACERT", "BAO_CACERT"] {
        let e = from(&[("VAULT_ADDR", "https://a:1"), (name, "/no/such.pem")]).unwrap_err();
        assert_eq!(e.setting(), name);
        assert!(e.to_string().contains("a file that can't be read"), "{e}");
    }
}

#[test]
fn half_of_a_client_certificate_names_what_is_missing() {
    for (set, missing) in
        [("VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"), ("VAULT_CLIENT_KEY", "VAULT_CLIENT_CERT")]
    {
        let e = from(&[("VAULT_ADDR", "https://a:1"), (set, "/x.pem")]).unwrap_err();
        assert_eq!(e.setting(), set);
        assert!(e.to_string().contains(missing), "{e}");
    }
}

#[test]
fn no_way_to_log_in_names_the_variable() {
    let e = settings(&[("VAULT_TOKEN", "\n")]).unwrap().auth().unwrap_err();
    assert_eq!(e.setting(), "VAULT_TOKEN");
}

#[test]
fn every_way_to_log_in_is_made_of_its_settings() {
    for (set, shown) in [
        (&[("VAULT_TOKEN", "s.topsecret")][..], "Auth(a given token)"),
        (&[("VAULT_TOKEN_FILE", "/run/token")], "/run/token"),
        (&[("VAULT_ROLE_ID", "r"), ("VAULT_SECRET_ID", "topsecret")], "auth/approle/login"),
        (&[("VAULT_ROLE_ID", "r"), ("VAULT_SECRET_ID_FILE", "/run/s")], "auth/approle/login"),
        (&[("VAULT_ROLE_ID", "r"), ("VAULT_WRAPPED_SECRET_ID", "s.t")], "auth/approle/login"),
        (&[("VAULT_ROLE_ID", "r"), ("VAULT_WRAPPED_SECRET_ID_FILE", "/x")], "auth/approle/login"),
        (&[("VAULT_KUBERNETES_ROLE", "r")], "auth/kubernetes/login"),
        (
            &[
                ("VAULT_KUBERNETES_ROLE", "r"),
                ("VAULT_KUBERNETES_TOKEN_FILE", "/x"),
                ("VAULT_AUTH_MOUNT", "auth/k8s/prod/"),
            ],
            "auth/k8s/prod/login",
        ),
        (&[("VAULT_JWT_ROLE", "r"), ("VAULT_JWT_FILE", "/x")], "auth/jwt/login"),
        (&[("VAULT_USERNAME", "joe"), ("VAULT_PASSWORD", "topsecret")], "auth/userpass/login/joe"),
        (&[("VAULT_CERT_ROLE", "r")], "auth/cert/login"),
    ] {
        let auth = settings(set).unwrap().auth().unwrap_or_else(|e| panic!("{set:?}: {e}"));
        let seen = format!("{auth:?}");
        assert!(seen.contains(shown) && !seen.contains("topsecret"), "{set:?}: {seen}");
    }
}

#[test]
fn two_ways_to_log_in_name_both() {
    let methods = ["TOKEN", "TOKEN_FILE", "ROLE_ID", "KUBERNETES_ROLE", "JWT_ROLE", "USERNAME"];
    for (n, one) in methods.iter().enumerate() {
        for other in methods.iter().chain(&["CERT_ROLE"]).skip(n + 1) {
            let (one, other) = (format!("VAULT_{one}"), format!("BAO_{other}"));
            let set = [(one.as_str(), "topsecret"), (other.as_str(), "topsecret")];
            let e = settings(&set).unwrap().auth().unwrap_err().to_string();
            assert!(e.contains(&one) && e.contains(&other), "{e}");
            assert!(!e.contains("topsecret"), "{e}");
        }
    }
    let both = [
        ("VAULT_ROLE_ID", "r"),
        ("VAULT_SECRET_ID", "topsecret"),
        ("VAULT_WRAPPED_SECRET_ID", "topsecret"),
    ];
    let e = settings(&both).unwrap().auth().unwrap_err().to_string();
    assert!(e.contains("VAULT_SECRET_ID and VAULT_WRAPPED_SECRET_ID"), "{e}");
}

#[test]
fn half_of_a_way_to_log_in_names_the_other_half() {
    for (set, missing) in [
        ("ROLE_ID", "VAULT_SECRET_ID"),
        ("SECRET_ID", "VAULT_ROLE_ID"),
        ("WRAPPED_SECRET_ID_FILE", "VAULT_ROLE_ID"),
        ("KUBERNETES_TOKEN_FILE", "VAULT_KUBERNETES_ROLE"),
        ("JWT_ROLE", "VAULT_JWT_FILE"),
        ("JWT_FILE", "VAULT_JWT_ROLE"),
        ("USERNAME", "VAULT_PASSWORD"),
        ("PASSWORD", "VAULT_USERNAME"),
    ] {
        let set = format!("VAULT_{set}");
        let e = settings(&[(&set, "topsecret")]).unwrap().auth().unwrap_err();
        assert_eq!(e.setting(), set);
        assert!(e.to_string().contains(missing) && !e.to_string().contains("topsecret"), "{e}");
    }
}

#[test]
fn i10_what_is_set_is_in_no_debug_output() {
    let secrets = [
        ("VAULT_ADDR", "https://u:topsecret@a:1"),
        ("VAULT_TOKEN", "topsecret"),
        ("VAULT_PROXY_ADDR", "http://u:topsecret@p:1"),
    ];
    let settings = settings(&secrets).unwrap();
    let shown =
        format!("{settings:?} {:?} {:?}", settings.config().unwrap(), settings.auth().unwrap());
    assert!(!shown.contains("topsecret"), "{shown}");
    assert!(shown.contains("VAULT_TOKEN"), "{shown}");
}

/// As people do who take `VAULT_TOKEN_FILE` for `VAULT_TOKEN`.
#[tokio::test]
async fn i10_what_was_given_in_place_of_a_files_name_is_in_no_error() {
    let files = ["cacert", "capath", "client_cert", "client_key"];
    let keys = KEYS.iter().map(|key| key.name);
    for key in keys.filter(|key| key.ends_with("_file") || files.contains(key)) {
        for text in [
            "topsecret",
            "hvs.topsecret/",
            "-----BEGIN PRIVATE KEY-----\ntopsecret",
            "/a\ntopsecret",
        ] {
            let set = format!("VAULT_{}", key.to_ascii_uppercase());
            let mut all = vec![("VAULT_ADDR", "https://127.0.0.1:9"), (set.as_str(), text)];
            all.extend(match key {
                "client_cert" => Some(("VAULT_CLIENT_KEY", "/no/such.pem")),
                "client_key" => {
                    Some(("VAULT_CLIENT_CERT", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")))
                }
                _ => None,
            });
            all.extend(match key {
                "secret_id_file" | "wrapped_secret_id_file" => Some(("VAULT_ROLE_ID", "r")),
                "kubernetes_token_file" => Some(("VAULT_KUBERNETES_ROLE", "r")),
                "jwt_file" => Some(("VAULT_JWT_ROLE", "r")),
                "token_file" => None,
                _ => Some(("VAULT_TOKEN", "s.unused")),
            });
            let settings = settings(&all).unwrap();
            let auth = settings.auth().unwrap();
            let mut shown = format!("{settings:?} {auth:?}");
            match settings.config() {
                Err(e) => {
                    assert_eq!(e.setting(), set);
                    shown += &format!("{e} {e:?}");
                }
                Ok(config) => {
                    let e = crate::Session::login(config, auth).await.unwrap_err();
                    let says = if key == "capath" { "VAULT_CAPATH" } else { "No such file" };
                    assert!(e.to_string().contains(says), "{key}: {e}");
                    shown += &format!("{e} {e:?}");
                }
            }
            assert!(!shown.contains("topsecret"), "{key}: {shown}");
        }
    }
}
