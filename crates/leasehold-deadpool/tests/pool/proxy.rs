//! A TCP proxy before Postgres that shows its clients' sockets, and can hold or slow down handshakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use leasehold_testkit::sockets_to;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    port: u16,
    accepted: AtomicUsize,
    /// So many of the next handshakes are held.
    to_hold: AtomicUsize,
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
    delay_ms: AtomicU64,
}

impl Proxy {
    pub async fn before(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self(Arc::new(Inner {
            port: listener.local_addr().unwrap().port(),
            accepted: AtomicUsize::new(0),
            to_hold: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            released: watch::Sender::new(false),
            delay_ms: AtomicU64::new(0),
        }));
        let (server, this) = ((host.to_owned(), port), proxy.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(this.clone().serve(client, server.clone()));
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Clients that have a socket to this proxy now, from the SYN to their close, as the kernel has
    /// it. `None` where it does not tell (not Linux).
    pub fn clients(&self) -> Option<usize> {
        sockets_to(self.0.port).map(|open| open.len())
    }

    pub fn accepted(&self) -> usize {
        self.0.accepted.load(SeqCst)
    }

    /// Each handshake takes so much longer from now on.
    pub fn delay(&self, by: Duration) {
        self.0.delay_ms.store(by.as_millis() as u64, SeqCst);
    }

    /// Holds the next handshake until `release`.
    pub fn hold_next(&self) {
        self.0.to_hold.fetch_add(1, SeqCst);
    }

    pub async fn holding(&self, n: usize) {
        self.0.held.subscribe().wait_for(|held| *held >= n).await.unwrap();
    }

    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    async fn serve(self, mut client: TcpStream, server: (String, u16)) -> std::io::Result<()> {
        let inner = &*self.0;
        inner.accepted.fetch_add(1, SeqCst);
        let hold = inner.to_hold.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if hold {
            inner.held.send_modify(|held| *held += 1);
            let mut released = inner.released.subscribe();
            let _ = released.wait_for(|released| *released).await;
        }
        tokio::time::sleep(Duration::from_millis(inner.delay_ms.load(SeqCst))).await;
        let mut server = TcpStream::connect(server).await?;
        copy_bidirectional(&mut client, &mut server).await.map(|_| ())
    }
}
