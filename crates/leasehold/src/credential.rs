//! A database login and the lease it lives on.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::clock::Time;
use crate::line::breaks_a_line;

/// A user name and its password. The password is wiped from memory when the last clone goes, and
/// is in no `Debug` output.
#[derive(Clone)]
pub struct Credential(Arc<Login>);

#[derive(PartialEq, Eq)]
struct Login {
    username: String,
    password: Zeroizing<String>,
    address: Option<Address>,
}

impl Credential {
    /// Takes over both strings; the password's memory is wiped on drop.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        let password = Zeroizing::new(password.into());
        Self(Arc::new(Login { username: username.into(), password, address: None }))
    }

    /// As [`new`](Self::new), for a password that is in memory which is wiped already.
    #[must_use]
    pub fn wiping(username: &str, password: Zeroizing<String>) -> Self {
        Self(Arc::new(Login { username: username.to_owned(), password, address: None }))
    }

    /// Says where the login is good, for sources that know. Pools then dial there, whatever their
    /// own options say.
    #[must_use]
    pub fn with_address(self, address: Address) -> Self {
        let address = (address != Address::default()).then_some(address);
        let (username, password) = (self.0.username.clone(), self.0.password.clone());
        Self(Arc::new(Login { username, password, address }))
    }

    /// Where the login is good, if its source said.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// What no login has in it, whatever server it is from: user name and database go into logs,
    /// where a line break would make two lines, and into a startup message, whose fields a NUL
    /// would end. For source crates.
    #[doc(hidden)]
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let control = |text: &str| text.chars().any(breaks_a_line);
        let address = self.0.address.as_ref();
        let names = address.into_iter().flat_map(|a| [&a.host, &a.database]).flatten();
        if control(&self.0.username) {
            Some("has a username with control characters in it")
        } else if self.0.password.contains('\0') {
            Some("has a password with a NUL in it")
        } else if names.map(String::as_str).any(control) {
            Some("has a host or database with control characters in it")
        } else {
            None
        }
    }

    /// The very same login: nothing would change for a pool.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// The login's name. Not a secret: Postgres shows it to everyone who is logged in.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.0.username
    }

    /// The password, to be handed to a driver and nowhere else.
    #[must_use]
    pub fn expose_password(&self) -> &str {
        &self.0.password
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.0.username)
            .field("password", &"[redacted]")
            .field("address", &self.0.address)
            .finish()
    }
}

/// Where a login is good. What is `None` is left as the pool's own options have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// Host name or IP address.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Database name.
    pub database: Option<String>,
}

impl Address {
    /// Everything as the pool has it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A host name or IP address.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// A port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A database.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }
}

/// What the server promised for a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Names the lease for renewal and revocation. `None` where there is nothing to renew or
    /// revoke (a static role, an environment variable). Not a login, yet whoever has it and the
    /// right policy can revoke the lease.
    pub id: Option<String>,
    /// Time to live granted when the credential was issued, counted from before the request was
    /// sent. `None` where it does not end by itself.
    pub ttl: Option<Duration>,
    /// What the server said. It never says `false` for a dynamic role, not even at the maximum
    /// TTL, so it decides nothing but whether renewing is tried at all.
    pub renewable: bool,
}

impl Lease {
    /// A renewable lease of `ttl`.
    #[must_use]
    pub fn renewable(id: impl Into<String>, ttl: Duration) -> Self {
        Self { id: Some(id.into()), ttl: Some(ttl), renewable: true }
    }

    /// A credential that ends after `ttl` and can be neither renewed nor revoked.
    #[must_use]
    pub fn fixed(ttl: Duration) -> Self {
        Self { id: None, ttl: Some(ttl), renewable: false }
    }

    /// A credential with no end of its own.
    #[must_use]
    pub fn endless() -> Self {
        Self { id: None, ttl: None, renewable: false }
    }
}

/// A freshly issued credential, as a source hands it over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The login.
    pub credential: Credential,
    /// Its lease.
    pub lease: Lease,
    /// The token that the lease dies with, if there is one.
    pub parent: Option<Parent>,
}

impl Issued {
    /// A credential with its lease and no token that it depends on.
    #[must_use]
    pub fn new(credential: Credential, lease: Lease) -> Self {
        Self { credential, lease, parent: None }
    }

    /// Ties it to the token that created it.
    #[must_use]
    pub fn with_parent(mut self, parent: Parent) -> Self {
        self.parent = Some(parent);
        self
    }
}

/// The token that created a lease, watched, because the lease dies with it whatever its own TTL
/// says. Holding a `Parent` also keeps that token alive: its session renews it, and revokes it
/// only after the last `Parent` is gone.
#[derive(Clone)]
pub struct Parent {
    state: watch::Receiver<ParentState>,
    _keep_alive: Arc<dyn Any + Send + Sync>,
}

impl Parent {
    /// `state` follows the token's end; `keep_alive` is dropped with the last clone.
    #[must_use]
    pub fn new(
        state: watch::Receiver<ParentState>,
        keep_alive: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { state, _keep_alive: keep_alive }
    }

    /// The token's state now.
    #[must_use]
    pub fn state(&self) -> ParentState {
        *self.state.borrow()
    }

    /// The state alone, which keeps no token alive.
    pub(crate) fn follow(&self) -> watch::Receiver<ParentState> {
        self.state.clone()
    }

    /// Waits for the state to change. Never returns once the session is gone. Cancel safe.
    pub async fn changed(&mut self) -> ParentState {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.state.borrow_and_update()
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parent").field(&self.state()).finish()
    }
}

/// When a token ends, and whether anything can still be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ParentState {
    /// Its end as known now, on the shared [`Clock`](crate::clock::Clock). `None`: never.
    pub ends: Option<Time>,
    /// The session expects to move `ends` by renewing. Once this is `false`, `ends` is final and
    /// leases of this token have to be replaced before it.
    pub renewing: bool,
    /// The session can log in anew, so that a lease issued now would live on another token.
    /// Where it can't (a token that was given), rotating would gain nothing.
    pub replaceable: bool,
}

impl ParentState {
    /// A token that never ends (root, or one that its giver keeps alive for ever).
    #[must_use]
    pub fn endless() -> Self {
        Self { ends: None, renewing: false, replaceable: false }
    }

    /// A token that ends at `ends` unless it is renewed.
    #[must_use]
    pub fn ending(ends: Time, renewing: bool, replaceable: bool) -> Self {
        Self { ends: Some(ends), renewing, replaceable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_debug_of_a_credential_shows_no_password() {
        let credential = Credential::new("v-app-1", "s3cr3t-pw");
        let issued = Issued::new(credential, Lease::fixed(Duration::from_secs(1)));
        let shown = format!("{issued:?} {issued:#?}");
        assert!(shown.contains("v-app-1"));
        assert!(!shown.contains("s3cr3t-pw"));
    }

    #[test]
    fn what_would_forge_a_line_or_a_field_is_at_fault() {
        let at = |address| Credential::new("app", "pw").with_address(address);
        for (credential, part) in [
            (Credential::new("app\nERROR all is lost", "pw"), "username"),
            (Credential::new("app\0options\0-csearch_path=x", "pw"), "username"),
            (Credential::new("app\u{1b}[2J", "pw"), "username"),
            (Credential::new("app\u{2028}ERROR all is lost", "pw"), "username"),
            (Credential::new("app\u{202e}toor", "pw"), "username"),
            (at(Address::new().host("db\u{2066}x")), "host"),
            (Credential::new("app", "p\0w"), "password"),
            (at(Address::new().host("db\nx")), "host"),
            (at(Address::new().database("d\0user\0postgres")), "database"),
        ] {
            let fault = credential.fault().unwrap();
            assert!(fault.contains(part), "{credential:?}: {fault}");
        }
        // Odd, and none of our business.
        let odd =
            Credential::new("o'hara \"x\"; -- é", " p\nw\t'\"\\ ").with_address(Address::new());
        assert_eq!(odd.fault(), None);
    }
}
