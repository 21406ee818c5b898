//! What is tested.

/// Whatever a pool or a driver has to say when it can't.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

use leasehold::CredentialProvider;

/// A kind of pool with its settings, or another way to have connections, whose logins a hook keeps
/// fresh.
///
/// Written by a hook crate's tests, with `async fn` in place of what is said here of futures. Nothing
/// may be retried or hidden in there: what fails for a user is to fail here.
pub trait Subject: Clone + Send + Sync + 'static {
    /// What connections are borrowed from. Clones are the same pool.
    type Pool: Clone + Send + Sync + 'static;

    /// What is borrowed.
    type Connection: Connection;

    /// The pool's maximum, at least 2: no more sockets are open at any time, but for one by which
    /// logins are proven and drains confirmed. Default: nothing bounds it.
    fn max_connections(&self) -> Option<usize> {
        None
    }

    /// Builds a pool on `provider` that dials `place`. It opens connections as they are wanted, keeps
    /// no idle ones ahead of that, and leaves the hook's defaults as they are.
    fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> impl Future<Output = Result<Self::Pool, Failure>> + Send;

    /// Takes a connection, and waits for one as a user does.
    fn borrow(
        &self,
        pool: &Self::Pool,
    ) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
}

/// A borrowed connection.
pub trait Connection: Send + 'static {
    /// Runs one statement, whatever it returns.
    fn execute(&mut self, sql: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs a query of one row with one column, which is text and is named `value`.
    fn text(&mut self, sql: &str) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Begins a transaction. Default: `BEGIN`.
    fn begin(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        self.execute("BEGIN")
    }

    /// Commits it. Default: `COMMIT`.
    fn commit(&mut self) -> impl Future<Output = Result<(), Failure>> + Send {
        self.execute("COMMIT")
    }

    /// Gives it back, and returns when the pool has it, as far as the pool lets anybody know.
    /// Default: it is dropped.
    fn give_back(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async move { drop(self) }
    }
}

/// Where the subject dials, and what it says of itself there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    /// A host name or IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The application name that each of its connections gives.
    pub application: &'static str,
    /// A statement that a login must be able to run before it becomes current.
    pub probe: &'static str,
}
