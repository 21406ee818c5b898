//! Secrets, told by the side that issued them.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::backend::Servers;
use crate::{Error, Result, Stack};

/// Fields of requests and answers whose text is a secret, wherever they stand.
const SECRET: &[&str] = &[
    "client_token",
    "input",
    "jwt",
    "password",
    "plaintext",
    "private_key",
    "root_token",
    "secret_id",
    "token",
];

impl Stack {
    /// Every secret that the Vault server issued or was given since its start:
    /// tokens, wrapping tokens, passwords (those inside a URL too), secret_ids, JWTs, what a Transit
    /// engine worked on (in base64), whether asked for by us or by what is tested. Sorted, each once. Needs
    /// [`StackBuilder::audit_raw`](crate::StackBuilder::audit_raw).
    ///
    /// Values of a key/value engine count if their key is one of those names.
    pub async fn secrets_issued(&self) -> Result<Vec<String>> {
        let log = self.raw_audit().await?;
        let mut found = BTreeSet::new();
        for line in log.lines() {
            // The last line may still be on its way.
            let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
            collect(&entry, false, &mut found);
        }
        Ok(found.into_iter().collect())
    }

    /// Has HashiCorp Vault audit, if that was asked for: it passes over what its configuration
    /// says of it, and takes by its API what OpenBao refuses there.
    pub(crate) async fn have_it_audit(&self) -> Result<()> {
        if !self.inner.audits {
            return Ok(());
        }
        let (_, devices) = self.vault_request("GET", "sys/audit", None).await?;
        if devices["data"].as_object().is_some_and(|devices| devices.contains_key("raw/")) {
            return Ok(());
        }
        let to = match &self.inner.servers {
            Servers::Processes(p) => p.bao().audit_log().display().to_string(),
            #[cfg(feature = "containers")]
            Servers::Containers(_) => "stdout".to_owned(),
        };
        let options = json!({ "file_path": to, "log_raw": "true" });
        let device = json!({ "type": "file", "options": options });
        match self.vault_request("PUT", "sys/audit/raw", Some(device)).await? {
            (200..=299, _) => Ok(()),
            (status, said) => Err(Error::Server {
                server: "Vault",
                detail: format!("it audits nothing, and won't: {status} {said}"),
            }),
        }
    }

    /// The raw audit itself: a JSON object per line, a `request` and a `response` for each
    /// request.
    pub async fn raw_audit(&self) -> Result<String> {
        if !self.inner.audits {
            return Err(Error::Unsupported(
                "nothing is audited: start the stack with audit_raw()".into(),
            ));
        }
        #[cfg(feature = "containers")]
        if let Servers::Containers(c) = &self.inner.servers {
            return c.audit().await;
        }
        self.on_processes("reading the audit", |p| {
            let path = p.bao().audit_log();
            fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))
        })
        .await
    }
}

fn collect(value: &Value, secret: bool, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(value, SECRET.contains(&name.as_str()), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, secret, found)),
        Value::String(text) if secret && !text.is_empty() => {
            found.insert(text.clone());
        }
        Value::String(text) => found.extend(password_of_url(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `scheme://user:password@host`. Not the template that a connection is configured by.
fn password_of_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let (account, _) = rest.split_once('@')?;
    let (_, password) = account.split_once(':')?;
    (!password.is_empty() && !password.starts_with("{{")).then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_at_any_depth_and_its_neighbours_are_not() {
        let entry = json!({
            "request": { "client_token": "s.one", "data": { "role_id": "r", "secret_id": "two" } },
            "response": {
                "data": { "data": { "url": "postgres://u:three@h/db" }, "password": "four", "keys": ["names"] },
                "wrap_info": { "token": "s.five", "accessor": "a" },
                "batch": { "batch_results": [{ "plaintext": "c2l4" }, { "input": "c2V2ZW4=" }] },
                "data2": { "connection_url": "postgresql://{{username}}:{{password}}@h/db" },
            },
        });
        let mut found = BTreeSet::new();
        collect(&entry, false, &mut found);
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["c2V2ZW4=", "c2l4", "four", "s.five", "s.one", "three", "two"]);
    }
}
