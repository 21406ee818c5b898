//! Where a pool connects to by its own options, for logins that say nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::Address;
use sqlx::postgres::PgConnectOptions;

pub(crate) struct Home {
    host: String,
    port: u16,
    database: Option<String>,
    /// Set as such, which sqlx prefers to every host, and can't take back. A folder that is given
    /// as a host is a host like any other.
    socket: Option<PathBuf>,
    /// A login has said something else, so that the options at hand are not the pool's own.
    left: AtomicBool,
}

impl Home {
    pub(crate) fn of(base: &PgConnectOptions) -> Self {
        Self {
            host: base.get_host().to_owned(),
            port: base.get_port(),
            database: base.get_database().map(str::to_owned),
            socket: base.get_socket().cloned(),
            left: AtomicBool::new(false),
        }
    }

    /// Whether a pool that is at home here can go to `address`.
    pub(crate) fn check(&self, address: Option<&Address>) -> Result<(), sqlx::Error> {
        let host = address.and_then(|address| address.host.as_deref());
        match (&self.socket, host) {
            (Some(own), Some(host)) if !host.starts_with('/') => {
                let message = format!(
                    "the login is good on {host}, but sqlx can't take the pool's options off \
                     socket {own:?}: give them host({own:?}) in place of a socket",
                );
                Err(sqlx::Error::Configuration(message.into()))
            }
            _ => Ok(()),
        }
    }

    /// `options` with `address`, and with the pool's own where that is silent.
    pub(crate) fn apply(
        &self,
        options: PgConnectOptions,
        address: Option<&Address>,
        username: &str,
    ) -> PgConnectOptions {
        if address.is_none() && !self.left.load(Ordering::Acquire) {
            // As they are: whoever changed them since may have meant it.
            return options;
        }
        self.left.store(true, Ordering::Release);
        let none = Address::new();
        let address = address.unwrap_or(&none);
        // Without one, Postgres takes the user's name; an option once set can't be unset.
        let database = address.database.as_deref().or(self.database.as_deref());
        let options = match (&self.socket, &address.host) {
            // A folder, or else no place at all: better than the server of another login.
            (Some(_), Some(host)) => options.socket(host),
            (Some(own), None) => options.socket(own),
            (None, _) => options,
        };
        options
            .host(address.host.as_deref().unwrap_or(&self.host))
            .port(address.port.unwrap_or(self.port))
            .database(database.unwrap_or(username))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &PgConnectOptions) -> String {
        format!("{}:{}/{:?}", options.get_host(), options.get_port(), options.get_database())
    }

    #[test]
    fn a_login_without_an_address_goes_back_to_the_pools_own() {
        let base = PgConnectOptions::new_without_pgpass().host("own").port(1).database("mine");
        let home = Home::of(&base);
        let moved = home.apply(base, Some(&Address::new().host("other").port(2)), "app");
        assert_eq!(shown(&moved), r#"other:2/Some("mine")"#);
        let moved = home.apply(moved, Some(&Address::new().database("yours")), "app");
        assert_eq!(shown(&moved), r#"own:1/Some("yours")"#);
        assert_eq!(shown(&home.apply(moved, None, "app")), r#"own:1/Some("mine")"#);
    }

    /// sqlx prefers a socket to every host, and can't take one back.
    #[test]
    fn a_login_of_another_host_never_goes_to_the_pools_own_socket() {
        let base = PgConnectOptions::new_without_pgpass().host("own").socket("/own");
        let home = Home::of(&base);
        let socket = |options: &PgConnectOptions| options.get_socket().cloned();
        let (folder, host) = (Address::new().host("/other"), Address::new().host("db.internal"));
        let moved = home.apply(base, Some(&folder), "app");
        assert_eq!(socket(&moved), Some("/other".into()));
        let moved = home.apply(moved, Some(&host), "app");
        assert_ne!(socket(&moved), Some("/own".into()));
        let moved = home.apply(moved, Some(&Address::new().port(2)), "app");
        assert_eq!(socket(&moved), Some("/own".into()));

        assert!(home.check(None).is_ok() && home.check(Some(&folder)).is_ok());
        let error = home.check(Some(&host)).unwrap_err().to_string();
        assert!(error.contains("db.internal") && error.contains("host(\"/own\")"), "{error}");
        // As a host it can be taken back.
        let base = PgConnectOptions::new_without_pgpass().host("/own");
        assert!(Home::of(&base).check(Some(&host)).is_ok());
    }
}
