//! Where a pool connects to by its own options, for logins that say nothing else.

use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::Address;
use sqlx::postgres::PgConnectOptions;

pub(crate) struct Home {
    host: String,
    port: u16,
    database: Option<String>,
    /// A login has said something else, so that the options at hand are not the pool's own.
    left: AtomicBool,
}

impl Home {
    pub(crate) fn of(base: &PgConnectOptions) -> Self {
        Self {
            host: base.get_host().to_owned(),
            port: base.get_port(),
            database: base.get_database().map(str::to_owned),
            left: AtomicBool::new(false),
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
}
