//! Which way to log in the settings name.

use super::ConfigError;
use super::values::{Value, Values};
use crate::auth::Auth;

/// A way to log in, and the setting that says that it is meant.
const METHODS: &[(&str, &str)] =
    &[("token", "a token"), ("token_file", "a token in a file"), ("role_id", "AppRole")];

/// What belongs to a method, and means nothing without it.
const PARTS: &[(&str, &str)] = &[("secret_id", "role_id")];

impl Auth {
    /// The way to log in that the environment names: `VAULT_TOKEN`, or `VAULT_ROLE_ID` with
    /// `VAULT_SECRET_ID`, and so on; the table is at [`Settings`](crate::Settings). `BAO_` in
    /// front wins over `VAULT_`.
    ///
    /// # Errors
    /// None is set, half of one is, or two are: the message names both variables.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut values = Values::default();
        values.add_environment()?;
        auth(&values)
    }
}

pub(super) fn auth(values: &Values) -> Result<Auth, ConfigError> {
    let mut named = METHODS.iter().filter_map(|(key, what)| Some((*key, *what, values.get(key)?)));
    let first = named.next();
    if let (Some((_, what, value)), Some((_, other, second))) = (&first, named.next()) {
        return Err(value.error(format!(
            "({what}) and {} ({other}) are two ways to log in: keep one",
            second.name()
        )));
    }
    for (part, method) in PARTS {
        if let (Some(value), None) = (values.get(part), values.get(method)) {
            return Err(value.error(format!("means nothing without {}", variable(method))));
        }
    }
    let Some((key, _, value)) = first else {
        return Err(ConfigError::new(
            "VAULT_TOKEN",
            "is not set, and no other way to log in is: set it to a token, or VAULT_ROLE_ID and \
             VAULT_SECRET_ID for AppRole",
        ));
    };
    let auth = match key {
        "token" => Auth::token(value.text.as_str()),
        "role_id" => {
            let secret_id = needed(values, value, "secret_id")?;
            Auth::approle(value.text.as_str(), secret_id.text.as_str())
        }
        _ => unreachable!("METHODS names no other"),
    };
    Ok(match values.text("auth_mount") {
        Some(mount) => auth.mount(mount),
        None => auth,
    })
}

fn needed<'a>(
    values: &'a Values,
    method: &Value,
    part: &'static str,
) -> Result<&'a Value, ConfigError> {
    let missing =
        || method.error(format!("is set, and {} is not: both are needed", variable(part)));
    values.get(part).ok_or_else(missing)
}

/// The usual name of a setting that is not there.
fn variable(key: &str) -> String {
    format!("VAULT_{}", key.to_ascii_uppercase())
}
