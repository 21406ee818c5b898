//! The manifests of `deploy/kubernetes` fit the program that they run.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use axum::http::StatusCode;
use axum_app::Service;
use yaml_rust2::{Yaml, YamlLoader};

const MANIFESTS: &str = include_str!("../../../deploy/kubernetes/orders.yaml");

const REVIEWER: &str = include_str!("../../../deploy/kubernetes/reviewer.yaml");

fn manifest(kind: &str) -> Yaml {
    manifest_in(MANIFESTS, kind)
}

fn manifest_in(manifests: &str, kind: &str) -> Yaml {
    let all = YamlLoader::load_from_str(manifests).unwrap();
    all.into_iter().find(|m| m["kind"].as_str() == Some(kind)).unwrap()
}

fn pod() -> Yaml {
    manifest("Deployment")["spec"]["template"]["spec"].clone()
}

/// The variables that the pod gets.
fn variables() -> Vec<(String, String)> {
    let data = manifest("ConfigMap")["data"].clone();
    let text = |yaml: &Yaml| yaml.as_str().expect("values of a ConfigMap are texts").to_owned();
    data.as_hash().unwrap().iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// `const NAME: Duration = Duration::from_secs(n)`
fn seconds(source: &str, name: &str) -> i64 {
    let (_, rest) = source.split_once(&format!("{name}: Duration = Duration::from_secs(")).unwrap();
    rest.split(')').next().unwrap().parse().unwrap()
}

#[test]
fn the_pod_is_given_the_time_that_the_program_takes_to_end() {
    let service = include_str!("../src/service.rs");
    let policy = include_str!("../../../crates/leasehold/src/machine/policy.rs");
    let pod = pod();
    let proxies =
        pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
    let needed = proxies
        + seconds(service, "FINISH_WITHIN")
        + seconds(service, "DRAIN_WITHIN")
        + seconds(policy, "SHUTDOWN_WRAP_UP");
    let given = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(given >= needed + 5, "{given} s for {needed} s");
}

#[tokio::test]
async fn each_probe_is_answered() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let db = common::database(stack, "probes", 60, 600).await;
    let service = Service::start(common::config(&db).await).await.unwrap();
    let container = pod()["containers"][0].clone();
    let named = container["ports"][0]["name"].as_str().unwrap().to_owned();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"].as_str(), Some(named.as_str()), "{probe}");
        let path = get["path"].as_str().unwrap();
        let (status, _) = common::call(&service.router(), "GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{probe}");
    }
    let _ = service.shutdown().await;
}

/// With them and nothing else the program comes as far as its login, which has no server here.
#[test]
fn the_program_knows_each_variable() {
    let token = std::env::temp_dir().join(format!("leasehold-token-{}", std::process::id()));
    std::fs::write(&token, "a.b.c").unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_axum-app"));
    program.env_clear();
    let known = [
        include_str!("../src/config.rs"),
        include_str!("../src/main.rs"),
        include_str!("../../../crates/leasehold-vault/src/config/settings.md"),
    ]
    .concat();
    for (name, value) in variables() {
        let setting = name.strip_prefix("VAULT_").unwrap_or("-").to_lowercase();
        let here =
            known.contains(&format!("\"{name}\"")) || known.contains(&format!("`{setting}`"));
        assert!(here || name == "RUST_LOG", "nobody reads {name}");
        match name.as_str() {
            "VAULT_CACERT" => continue,
            // A port that is open to nobody.
            "VAULT_ADDR" => program.env(name, "http://127.0.0.1:1"),
            "VAULT_KUBERNETES_TOKEN_FILE" => program.env(name, &token),
            "LISTEN" => program.env(name, "127.0.0.1:0"),
            _ => program.env(name, value),
        };
    }
    let done = program.output().unwrap();
    std::fs::remove_file(&token).unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("logging in to Vault"), "{said}");
    assert!(said.contains("kubernetes"), "by its service account: {said}");
}

#[test]
fn what_one_manifest_names_the_others_have() {
    let pod = pod();
    let account = manifest("ServiceAccount");
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    let container = &pod["containers"][0];
    let map = &container["envFrom"][0]["configMapRef"]["name"];
    assert_eq!(map, &manifest("ConfigMap")["metadata"]["name"]);
    let labels = &manifest("Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&manifest("Service")["spec"]["selector"], labels);
    for kind in ["Deployment", "PodDisruptionBudget"] {
        assert_eq!(&manifest(kind)["spec"]["selector"]["matchLabels"], labels, "{kind}");
    }
    assert_eq!(&manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"], labels);

    // Each mount is of a volume, and the files that variables name are in them.
    let mounts = container["volumeMounts"].as_vec().unwrap();
    let volumes = pod["volumes"].as_vec().unwrap();
    assert!(mounts.iter().all(|mount| volumes.iter().any(|v| v["name"] == mount["name"])));
    for (name, value) in variables() {
        if ["VAULT_CACERT", "VAULT_KUBERNETES_TOKEN_FILE"].contains(&name.as_str()) {
            let inside = |mount: &Yaml| value.starts_with(mount["mountPath"].as_str().unwrap());
            assert!(mounts.iter().any(inside), "{name} is in no volume");
        }
    }
    let audience = &volumes[0]["projected"]["sources"][0]["serviceAccountToken"]["audience"];
    let script = include_str!("../../../deploy/kubernetes/vault.sh");
    assert!(script.contains(&format!("audience={}", audience.as_str().unwrap())));
    let (role, account) = (variables(), account["metadata"]["name"].as_str().unwrap().to_owned());
    let role = role.iter().find(|(name, _)| name == "VAULT_KUBERNETES_ROLE").unwrap().1.clone();
    assert!(script.contains(&format!("auth/kubernetes/role/{role} ")));
    assert!(script.contains(&format!("bound_service_account_names={account} ")));
}

/// A token of the pod's audience can't review itself: Vault has an account for that, and the pod's
/// has no right in the cluster.
#[test]
fn vault_reviews_tokens_by_an_account_of_its_own() {
    let account = manifest_in(REVIEWER, "ServiceAccount")["metadata"].clone();
    let secret = manifest_in(REVIEWER, "Secret");
    let of = &secret["metadata"]["annotations"]["kubernetes.io/service-account.name"];
    assert_eq!(of, &account["name"]);
    assert_eq!(secret["metadata"]["namespace"], account["namespace"]);
    let binding = manifest_in(REVIEWER, "ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"].as_str(), Some("system:auth-delegator"));
    let subjects = binding["subjects"].as_vec().unwrap();
    assert_eq!(subjects.len(), 1);
    assert_eq!(subjects[0]["kind"].as_str(), Some("ServiceAccount"));
    for field in ["name", "namespace"] {
        assert_eq!(subjects[0][field], account[field], "{field}");
    }
    assert!(!MANIFESTS.contains("kind: ClusterRoleBinding"));
    let readme = include_str!("../../../deploy/kubernetes/README.md");
    for named in [&secret["metadata"]["name"], &account["namespace"]] {
        assert!(readme.contains(&format!("`{}`", named.as_str().unwrap())), "{named:?}");
    }
}

/// The manifests name no namespace: the page's command does, and Vault's role is bound to it.
#[test]
fn the_namespace_is_the_one_that_vaults_role_is_bound_to() {
    let readme = include_str!("../../../deploy/kubernetes/README.md");
    let command = "kubectl apply -n ";
    let (_, rest) = readme.split_once(command).unwrap();
    let (namespace, rest) = rest.split_once(' ').unwrap();
    assert!(rest.starts_with("-f deploy/kubernetes/orders.yaml\n"), "{rest}");
    assert!(readme.contains(&format!(" NAMESPACE={namespace}\n")));
    let script = include_str!("../../../deploy/kubernetes/vault.sh");
    assert!(script.contains(&format!("${{NAMESPACE:={namespace}}}")));
    assert!(script.contains("bound_service_account_namespaces=\"$NAMESPACE\""));
    for manifest in YamlLoader::load_from_str(MANIFESTS).unwrap() {
        assert!(manifest["metadata"]["namespace"].is_badvalue(), "{manifest:?}");
    }
    let postgres = variables().into_iter().find(|(name, _)| name == "PG_HOST").unwrap().1;
    assert_eq!(postgres, format!("postgres.{namespace}.svc"));
}
