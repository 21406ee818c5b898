//! Settings in environment variables, for where there is no server.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use tracing::warn;
use zeroize::Zeroizing;

use super::error::KvError;
use super::node::Node;
use super::problem::KvKeyProblem;
use super::typed::{typed, variable};

/// The variables that begin with a prefix, by what follows it. Those that are empty or not Unicode
/// count as not set.
pub(super) fn variables(prefix: &str) -> Node {
    among(
        prefix,
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, Zeroizing::new(value.into_string().ok()?)))
        }),
    )
}

fn among(prefix: &str, all: impl Iterator<Item = (String, Zeroizing<String>)>) -> Node {
    let ours = all.filter(|(_, value)| !value.is_empty()).filter_map(|(name, value)| {
        let rest = name.strip_prefix(prefix)?;
        Some((rest.to_owned(), Node::Text(value)))
    });
    Node::Variables { fields: BTreeMap::new(), named: ours.collect() }
}

/// Says loudly that the environment is used.
pub(super) fn tell(path: &str, prefix: &str, why: &KvError) {
    warn!(
        secret = path,
        error = %why,
        "the server can't be asked: settings are taken from environment variables {prefix}*"
    );
}

/// A struct out of variables; else what they lack, by their names.
pub(super) fn settings<T: DeserializeOwned>(prefix: &str) -> Result<T, KvError> {
    typed(&variables(prefix)).map_err(|keys| malformed(prefix, keys))
}

fn malformed(prefix: &str, keys: Vec<KvKeyProblem>) -> KvError {
    let keys = keys.into_iter().map(|problem| named(prefix, problem)).collect();
    KvError::Malformed { path: "the environment".to_owned(), version: None, keys }
}

/// The problem under the name that the variable would have.
pub(super) fn named(prefix: &str, problem: KvKeyProblem) -> KvKeyProblem {
    KvKeyProblem { key: format!("{prefix}{}", variable(&problem.key)), ..problem }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Smtp {
        host: String,
        port: u16,
        from_address: Option<String>,
        hosts: Option<Vec<String>>,
    }

    #[test]
    fn fields_are_found_by_their_names_in_capitals() {
        let set = |pairs: &[(&str, &str)]| {
            let all = pairs.iter().map(|(k, v)| ((*k).to_owned(), Zeroizing::new((*v).to_owned())));
            among("SHOP_SMTP_", all.collect::<Vec<_>>().into_iter())
        };
        let all = set(&[
            ("SHOP_SMTP_HOST", "h"),
            ("SHOP_SMTP_PORT", "25"),
            ("SHOP_SMTP_HOSTS", r#"["a"]"#),
            ("SHOP_SMTP_OTHER", "of somebody else"),
            ("HOST", "not this"),
        ]);
        let smtp: Smtp = typed(&all).expect("all there");
        assert_eq!((smtp.host.as_str(), smtp.port, smtp.from_address), ("h", 25, None));
        assert_eq!(smtp.hosts, Some(vec!["a".to_owned()]));
        let half = set(&[("SHOP_SMTP_HOST", ""), ("SHOP_SMTP_PORT", "hunter2")]);
        let e = malformed("SHOP_SMTP_", typed::<Smtp>(&half).expect_err("half")).to_string();
        assert!(e.contains("`SHOP_SMTP_HOST` is missing") && e.contains("`SHOP_SMTP_PORT`"), "{e}");
        assert!(!e.contains("hunter2"), "{e}");
    }
}
