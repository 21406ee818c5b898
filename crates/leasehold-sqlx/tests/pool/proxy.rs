//! A way to Postgres that can hold a connection up, and knows how many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leasehold_testkit::sockets_to;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    /// Connections that are to be held after their first message.
    hold: Arc<AtomicUsize>,
    held: watch::Sender<usize>,
    go: Arc<Semaphore>,
    most: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn to(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            hold: Arc::default(),
            held: watch::Sender::new(0),
            go: Arc::new(Semaphore::new(0)),
            most: Arc::default(),
        };
        let (serve, server) = (proxy.clone(), (host.to_owned(), port));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let open = sockets_to(serve.port).map_or(0, |open| open.len());
                serve.most.fetch_max(open, Ordering::SeqCst);
                tokio::spawn(serve.clone().forward(client, server.clone()));
            }
        });
        proxy
    }

    /// The next connection gets no answer from the server until it is let go.
    pub fn hold_next(&self) {
        self.hold.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until a connection is held.
    pub async fn holds_one(&self) {
        self.held.subscribe().wait_for(|held| *held > 0).await.unwrap();
    }

    pub fn let_go(&self) {
        self.go.add_permits(1);
    }

    /// The most connections that were open at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    async fn forward(self, mut client: TcpStream, server: (String, u16)) {
        let mut server = TcpStream::connect(server).await.unwrap();
        let mut hello = [0; 8192];
        let Ok(n) = client.read(&mut hello).await else { return };
        let take = self.hold.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if take.is_ok() {
            self.held.send_modify(|held| *held += 1);
            self.go.acquire().await.unwrap().forget();
            self.held.send_modify(|held| *held -= 1);
        }
        if server.write_all(&hello[..n]).await.is_ok() {
            // Either side may end it as it likes.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    }
}
