//! Which way to log in the settings name.

use super::ConfigError;
use super::values::{Value, Values};
use crate::auth::{Auth, SecretId};

/// A way to log in, and the setting that says that it is meant.
const METHODS: &[(&str, &str)] = &[
    ("token", "a token"),
    ("token_file", "a token in a file"),
    ("role_id", "AppRole"),
    ("kubernetes_role", "Kubernetes"),
    ("jwt_role", "JWT"),
    ("username", "userpass"),
    ("cert_role", "a TLS certificate"),
];

/// What belongs to a method, and means nothing without it.
const PARTS: &[(&str, &str)] = &[
    ("secret_id", "role_id"),
    ("secret_id_file", "role_id"),
    ("wrapped_secret_id", "role_id"),
    ("wrapped_secret_id_file", "role_id"),
    ("kubernetes_token_file", "kubernetes_role"),
    ("jwt_file", "jwt_role"),
    ("password", "username"),
];

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
        "token" => Auth::token(text(value)),
        "token_file" => Auth::token_file(text(value)),
        "role_id" => Auth::approle(text(value), secret_id(values, value)?),
        "kubernetes_role" => match values.text("kubernetes_token_file") {
            Some(file) => Auth::kubernetes_token(text(value), file),
            None => Auth::kubernetes(text(value)),
        },
        "jwt_role" => Auth::jwt(text(value), text(needed(values, value, "jwt_file")?)),
        "username" => Auth::userpass(text(value), text(needed(values, value, "password")?)),
        "cert_role" => Auth::cert(Some(text(value))),
        _ => unreachable!("METHODS names no other"),
    };
    Ok(match values.text("auth_mount") {
        Some(mount) => auth.mount(mount),
        None => auth,
    })
}

fn secret_id(values: &Values, role_id: &Value) -> Result<SecretId, ConfigError> {
    type Make = fn(&str) -> SecretId;
    let ways: [(&'static str, Make); 4] = [
        ("secret_id", |text| SecretId::value(text)),
        ("secret_id_file", |text| SecretId::file(text)),
        ("wrapped_secret_id", |text| SecretId::wrapped(text)),
        ("wrapped_secret_id_file", |text| SecretId::wrapped_file(text)),
    ];
    let mut given = ways.into_iter().filter_map(|(key, make)| Some((values.get(key)?, make)));
    match (given.next(), given.next()) {
        (Some((one, _)), Some((other, _))) => {
            Err(one.error(format!("and {} both give the secret_id: keep one", other.name())))
        }
        (Some((value, make)), None) => Ok(make(text(value))),
        (None, _) => Err(missing(role_id, "secret_id")),
    }
}

fn text(value: &Value) -> &str {
    &value.text
}

fn needed<'a>(
    values: &'a Values,
    method: &Value,
    part: &'static str,
) -> Result<&'a Value, ConfigError> {
    values.get(part).ok_or_else(|| missing(method, part))
}

fn missing(method: &Value, part: &str) -> ConfigError {
    method.error(format!("is set, and {} is not: both are needed", variable(part)))
}

/// The usual name of a setting that is not there.
fn variable(key: &str) -> String {
    format!("VAULT_{}", key.to_ascii_uppercase())
}
