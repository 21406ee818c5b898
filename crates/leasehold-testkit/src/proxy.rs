//! A way to a server that can be broken on purpose.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Error, Result};

/// As much as is read at once.
const CHUNK: usize = 16 * 1024;
/// Chunks that wait for their time; more are left to the kernel.
const QUEUE: usize = 64;
/// The longest text that a trap can be set for.
const LONGEST: usize = 256;
/// How long a connection that was cut short in order waits for its client to go.
const LINGER: Duration = Duration::from_secs(5);

/// A TCP proxy on 127.0.0.1 before one server, which passes everything on until it is told to do
/// worse. A cheap handle; it ends with the last one, or with the runtime that it was made on.
///
/// What is injected holds for all its connections, those that exist and those to come, until
/// [`mend`](Self::mend). [`trap`](Self::trap) holds up a request that is told by its bytes, so that
/// a fault can strike just then:
///
/// ```no_run
/// # async fn f(stack: leasehold_testkit::Stack) -> leasehold_testkit::Result<()> {
/// use leasehold_testkit::{Catch, Direction, Toxic};
///
/// let proxy = stack.vault_proxy().await?;
/// let address = format!("http://{}", proxy.address()); // for what is tested
/// let trap = proxy.trap(Catch::request("/creds/"));
/// trap.caught().await; // somebody asks for a login, and the server has not seen it yet
/// proxy.inject(Direction::Answers, Toxic::BlackHole).await;
/// trap.release();
/// // ... look at what becomes of it, then
/// proxy.mend().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FaultProxy(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: AbortHandle,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    Requests,
    /// From the server to the clients.
    Answers,
    /// Either.
    Both,
}

/// What can be wrong with a network. Several in force at once add up; one that is injected again
/// replaces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Toxic {
    /// Bytes arrive later by `delay`, give or take up to `jitter`; their order stays.
    Latency {
        /// By how much.
        delay: Duration,
        /// Give or take, each time by chance.
        jitter: Duration,
    },
    /// Each connection passes so many bytes a second.
    Bandwidth(
        /// At least 1.
        u32,
    ),
    /// Of all that one side says between two words of the other (of one answer, say) only so many
    /// bytes pass.
    Cut {
        /// So many pass.
        after: usize,
        /// What happens next.
        then: Then,
    },
    /// Connections are accepted and nothing passes. What was said meanwhile arrives when it is
    /// mended, as after a break of the network.
    BlackHole,
    /// Every connection is reset, whatever the direction: at once those that exist, each new one
    /// when it is accepted.
    Reset,
    /// The port is closed, whatever the direction: connections that exist are reset, new ones
    /// refused.
    Refuse,
}

/// What follows on half of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Then {
    /// The connection is closed in order.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing, until it is mended; then the rest.
    Hold,
}

/// What a [`Trap`] waits for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Catch {
    what: What,
    connection: Option<u64>,
    times: usize,
}

#[derive(Clone, Debug)]
enum What {
    Connection,
    Bytes(Way, Vec<u8>),
}

impl Catch {
    /// A new connection: it is accepted, and the server hears nothing of it while it is held.
    pub fn connection() -> Self {
        Self { what: What::Connection, connection: None, times: 1 }
    }

    /// Something that a client says with these bytes in it, at most 256: part of a request's line
    /// or of a statement. TLS hides them.
    pub fn request(bytes: impl AsRef<[u8]>) -> Self {
        Self::bytes(Way::Up, bytes.as_ref())
    }

    /// Something that the server says with these bytes in it, at most 256.
    pub fn answer(bytes: impl AsRef<[u8]>) -> Self {
        Self::bytes(Way::Down, bytes.as_ref())
    }

    fn bytes(way: Way, bytes: &[u8]) -> Self {
        let bytes = bytes[..bytes.len().min(LONGEST)].to_vec();
        Self { what: What::Bytes(way, bytes), connection: None, times: 1 }
    }

    /// Only on this connection, as told by [`Trap::caught`].
    pub fn on(mut self, connection: u64) -> Self {
        self.connection = Some(connection);
        self
    }

    /// So many of them, not just the first.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

/// Holds up what it catches until it is released, or dropped.
#[must_use = "a trap that is dropped catches nothing"]
pub struct Trap {
    set: Arc<Set>,
    shared: Arc<Shared>,
}

struct Set {
    catch: Catch,
    left: AtomicUsize,
    state: watch::Sender<Caught>,
}

#[derive(Clone, Debug, Default)]
struct Caught {
    connections: Vec<u64>,
    released: bool,
}

impl Trap {
    /// Waits until something is caught. Returns its connection's number.
    pub async fn caught(&self) -> u64 {
        self.holds(1).await;
        self.set.state.borrow().connections[0]
    }

    /// Waits until this many were caught.
    pub async fn holds(&self, n: usize) {
        let mut state = self.set.state.subscribe();
        // The sender is ours: it can't be gone.
        let _ = state.wait_for(|state| state.connections.len() >= n).await;
    }

    /// How many were caught so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.set.state.borrow().connections.len()
    }

    /// Lets go what it holds, and catches nothing any more.
    pub fn release(&self) {
        self.set.left.store(0, SeqCst);
        self.shared.traps().retain(|set| !Arc::ptr_eq(set, &self.set));
        self.set.state.send_modify(|state| state.released = true);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trap")
            .field("catch", &self.set.catch)
            .field("state", &*self.set.state.borrow())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What is in force for one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    delay: Duration,
    jitter: Duration,
    bytes_per_second: Option<u32>,
    cut: Option<(usize, Then)>,
    black_hole: bool,
}

/// What is in force.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    version: u64,
    up: Flow,
    down: Flow,
    reset: bool,
    refuse: bool,
}

impl State {
    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }

    fn cuts_all(&self) -> bool {
        self.reset || self.refuse
    }

    fn inject(&mut self, direction: Direction, toxic: Toxic) {
        match toxic {
            Toxic::Reset => self.reset = true,
            Toxic::Refuse => self.refuse = true,
            _ => {}
        }
        let both = direction == Direction::Both;
        let up = both || direction == Direction::Requests;
        let down = both || direction == Direction::Answers;
        for flow in [up.then_some(&mut self.up), down.then_some(&mut self.down)] {
            let Some(flow) = flow else { continue };
            match toxic {
                Toxic::Latency { delay, jitter } => (flow.delay, flow.jitter) = (delay, jitter),
                Toxic::Bandwidth(rate) => flow.bytes_per_second = Some(rate.max(1)),
                Toxic::Cut { after, then } => flow.cut = Some((after, then)),
                Toxic::BlackHole => flow.black_hole = true,
                Toxic::Reset | Toxic::Refuse => {}
            }
        }
    }
}

struct Shared {
    upstream: Mutex<String>,
    state: watch::Sender<State>,
    /// The version that the accepting task goes by.
    door: watch::Sender<u64>,
    traps: Mutex<Vec<Arc<Set>>>,
    next: AtomicU64,
    open: watch::Sender<BTreeSet<u64>>,
    /// Cheap, and good enough for jitter.
    dice: AtomicU64,
}

impl Shared {
    fn traps(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Set>>> {
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upstream(&self) -> String {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for as long as a trap holds this.
    async fn hold(&self, connection: u64, seen: impl Fn(&What) -> bool) {
        let caught: Vec<Arc<Set>> = {
            let mut traps = self.traps();
            let fits = |set: &Set| {
                set.catch.connection.is_none_or(|only| only == connection)
                    && seen(&set.catch.what)
                    && set.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
            };
            let caught = traps.iter().filter(|set| fits(set)).cloned().collect();
            traps.retain(|set| set.left.load(SeqCst) > 0);
            caught
        };
        for set in caught {
            let mut state = set.state.subscribe();
            set.state.send_modify(|state| state.connections.push(connection));
            let _ = state.wait_for(|state| state.released).await;
        }
    }

    fn delay(&self, flow: Flow) -> Duration {
        if flow.jitter.is_zero() {
            return flow.delay;
        }
        // SplitMix64.
        let seed = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
        let mut z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = (z >> 11) as f64 / (1u64 << 53) as f64;
        (flow.delay + flow.jitter.mul_f64(2.0 * part)).saturating_sub(flow.jitter)
    }
}

impl FaultProxy {
    /// A proxy on a free port before `upstream`, a `host:port`. It dials anew for each connection,
    /// so that the server need not run yet.
    pub async fn before(upstream: impl Into<String>) -> Result<Self> {
        let at = |e| Error::io("opening a port for a proxy")(e);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(any).and_then(open).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.into()),
            state: watch::Sender::new(State::default()),
            door: watch::Sender::new(0),
            traps: Mutex::default(),
            next: AtomicU64::new(1),
            open: watch::Sender::new(BTreeSet::new()),
            dice: AtomicU64::new(u64::from(address.port())),
        });
        let task = tokio::spawn(accept(shared.clone(), listener, address)).abort_handle();
        Ok(Self(Arc::new(Inner { shared, address, task })))
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// `127.0.0.1:port`, in place of the server's.
    #[must_use]
    pub fn address(&self) -> String {
        self.0.address.to_string()
    }

    /// Makes it worse, and returns when that is in force: after a [`Toxic::Reset`] or
    /// [`Toxic::Refuse`] no connection of before is open any more.
    pub async fn inject(&self, direction: Direction, toxic: Toxic) {
        let shared = &self.0.shared;
        let before = shared.next.load(SeqCst);
        self.change(|state| state.inject(direction, toxic)).await;
        if matches!(toxic, Toxic::Reset | Toxic::Refuse) {
            let mut open = shared.open.subscribe();
            let _ = open.wait_for(|open| open.range(..before).next().is_none()).await;
        }
    }

    /// Leads connections to another server, a `host:port`, from the next one on; those that exist
    /// stay where they are. So an address that follows the primary follows a fail-over.
    pub fn lead_to(&self, upstream: impl Into<String>) {
        let mut now = self.0.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        *now = upstream.into();
    }

    /// Passes everything on again. What was held arrives; what was reset stays so.
    pub async fn mend(&self) {
        self.change(|state| *state = State { version: state.version, ..State::default() }).await;
    }

    /// Holds up what `catch` tells, from now on.
    pub fn trap(&self, catch: Catch) -> Trap {
        let left = AtomicUsize::new(catch.times);
        let set = Arc::new(Set { catch, left, state: watch::Sender::new(Caught::default()) });
        self.0.shared.traps().push(set.clone());
        Trap { set, shared: self.0.shared.clone() }
    }

    /// How many connections it has accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        usize::try_from(self.0.shared.next.load(SeqCst) - 1).unwrap_or(usize::MAX)
    }

    /// How many of them are open, or on their way to the server.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.shared.open.borrow().len()
    }

    async fn change(&self, change: impl FnOnce(&mut State)) {
        let mut version = 0;
        self.0.shared.state.send_modify(|state| {
            change(state);
            state.version += 1;
            version = state.version;
        });
        let mut door = self.0.shared.door.subscribe();
        let _ = door.wait_for(|seen| *seen >= version).await;
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("address", &self.0.address)
            .field("upstream", &self.0.shared.upstream())
            .field("state", &*self.0.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that is ours and refuses connections: it does not listen.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of before may linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn open(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(1024)
}

enum Door {
    Open(TcpListener),
    Shut(TcpSocket),
    /// The port could not be had again. Looked at anew after a moment.
    Lost,
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr) {
    let mut state = shared.state.subscribe();
    // Dropped with this task: they end with the proxy.
    let mut connections = JoinSet::new();
    let mut door = Door::Open(listener);
    loop {
        let State { refuse, version, .. } = *state.borrow_and_update();
        door = match (door, refuse) {
            (Door::Open(listener), true) => {
                drop(listener);
                bind(address).map_or(Door::Lost, Door::Shut)
            }
            (Door::Shut(socket), false) => open(socket).map_or(Door::Lost, Door::Open),
            (Door::Lost, refuse) => match bind(address) {
                Ok(socket) if refuse => Door::Shut(socket),
                Ok(socket) => open(socket).map_or(Door::Lost, Door::Open),
                Err(_) => Door::Lost,
            },
            (door, _) => door,
        };
        if !matches!(door, Door::Lost) {
            shared.door.send_replace(version);
        }
        let next = async {
            match &door {
                Door::Open(listener) => listener.accept().await.ok(),
                Door::Shut(_) => std::future::pending().await,
                Door::Lost => {
                    sleep(Duration::from_millis(10)).await;
                    None
                }
            }
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = next => if let Some((client, _)) = accepted {
                let link = Link::new(shared.clone());
                connections.spawn(link.serve(client));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both sides have said all.
    Over,
    /// Cut short by a [`Then::Close`].
    Closed,
    /// By a reset, ours or one side's.
    Reset,
}

/// One connection.
struct Link {
    shared: Arc<Shared>,
    number: u64,
    /// Bytes that have passed each way since something passed the other way.
    said: [AtomicUsize; 2],
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.open.send_modify(|open| _ = open.remove(&self.number));
    }
}

impl Link {
    fn new(shared: Arc<Shared>) -> Self {
        let number = shared.next.fetch_add(1, SeqCst);
        shared.open.send_modify(|open| _ = open.insert(number));
        Self { shared, number, said: Default::default() }
    }

    async fn serve(self, mut client: TcpStream) {
        let _ = client.set_nodelay(true);
        let mut state = self.shared.state.subscribe();
        let mut server = None;
        let end = tokio::select! {
            biased;
            // The proxy is gone, and we with it.
            _ = state.wait_for(State::cuts_all) => End::Reset,
            end = self.pass(&mut client, &mut server) => end,
        };
        match end {
            End::Over => {}
            End::Closed => {
                drop(server);
                let _ = client.shutdown().await;
                // Closing with unread bytes would be a reset.
                let mut rest = [0; 1024];
                let drain = async { while matches!(client.read(&mut rest).await, Ok(1..)) {} };
                let _ = tokio::time::timeout(LINGER, drain).await;
            }
            End::Reset => {
                reset_on_close(&client);
                server.iter().for_each(reset_on_close);
            }
        }
    }

    async fn pass(&self, client: &mut TcpStream, server: &mut Option<TcpStream>) -> End {
        self.shared.hold(self.number, |what| matches!(what, What::Connection)).await;
        // A server behind a black hole hears nothing of a connection.
        self.not_in_a_hole(Way::Up).await;
        let upstream = self.shared.upstream();
        let Ok(stream) = TcpStream::connect(upstream).await else { return End::Reset };
        let _ = stream.set_nodelay(true);
        let (mut from_server, mut to_server) = server.insert(stream).split();
        let (mut from_client, mut to_client) = client.split();
        let up = self.pump(Way::Up, &mut from_client, &mut to_server);
        let down = self.pump(Way::Down, &mut from_server, &mut to_client);
        match tokio::try_join!(up, down) {
            Ok(_) => End::Over,
            Err(end) => end,
        }
    }

    async fn not_in_a_hole(&self, way: Way) {
        let mut state = self.shared.state.subscribe();
        let _ = state.wait_for(|state| !state.flow(way).black_hole).await;
    }

    /// Passes on what goes one way, until its end. `Err`: the end of the whole connection.
    async fn pump(
        &self,
        way: Way,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> std::result::Result<(), End> {
        let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut buffer = vec![0; CHUNK];
        // The end of what came before: what a trap waits for may come in two pieces.
        let mut tail = Vec::new();
        let mut ended = false;
        loop {
            let due = queue.front().map(|chunk| chunk.0);
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some((_, bytes)) = queue.pop_front() {
                        self.forward(way, &bytes, to).await?;
                    }
                }
                read = from.read(&mut buffer), if !ended && queue.len() < QUEUE => {
                    let n = read.map_err(|_| End::Reset)?;
                    ended = n == 0;
                    let bytes = &buffer[..n];
                    self.look(way, &mut tail, bytes).await;
                    if !ended {
                        let flow = self.shared.state.borrow().flow(way);
                        let due = Instant::now() + self.shared.delay(flow);
                        let due = queue.back().map_or(due, |last| due.max(last.0));
                        queue.push_back((due, bytes.to_vec()));
                    }
                }
                else => {
                    self.not_in_a_hole(way).await;
                    return to.shutdown().await.map_err(|_| End::Reset);
                }
            }
        }
    }

    /// Waits for traps that these bytes are caught in.
    async fn look(&self, way: Way, tail: &mut Vec<u8>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let known = tail.len();
        tail.extend_from_slice(bytes);
        let contains = |wanted: &[u8]| {
            // Only what ends in the new bytes is new.
            let from = (known + 1).saturating_sub(wanted.len());
            wanted.is_empty() || tail[from..].windows(wanted.len()).any(|seen| seen == wanted)
        };
        let seen = |what: &What| match what {
            What::Bytes(on, wanted) => *on == way && contains(wanted),
            What::Connection => false,
        };
        self.shared.hold(self.number, seen).await;
        tail.drain(..tail.len().saturating_sub(LONGEST));
    }

    async fn forward(
        &self,
        way: Way,
        bytes: &[u8],
        to: &mut WriteHalf<'_>,
    ) -> std::result::Result<(), End> {
        self.not_in_a_hole(way).await;
        let mut state = self.shared.state.subscribe();
        let (mine, other) = match way {
            Way::Up => (&self.said[0], &self.said[1]),
            Way::Down => (&self.said[1], &self.said[0]),
        };
        other.store(0, SeqCst);
        let mut rest = bytes;
        while !rest.is_empty() {
            let flow = state.borrow_and_update().flow(way);
            let mut n = rest.len();
            if let Some((after, then)) = flow.cut {
                n = n.min(after.saturating_sub(mine.load(SeqCst)));
                if n == 0 {
                    match then {
                        Then::Close => return Err(End::Closed),
                        Then::Reset => return Err(End::Reset),
                        Then::Hold => {
                            let _ = state.changed().await;
                            continue;
                        }
                    }
                }
            }
            if let Some(rate) = flow.bytes_per_second {
                // In small pieces, so that it flows.
                n = n.min((rate as usize / 20).max(1));
            }
            to.write_all(&rest[..n]).await.map_err(|_| End::Reset)?;
            mine.fetch_add(n, SeqCst);
            rest = &rest[n..];
            if let Some(rate) = flow.bytes_per_second {
                let pause = Duration::from_secs_f64(n as f64 / f64::from(rate));
                // Mended, it hurries.
                let _ = tokio::time::timeout(pause, state.changed()).await;
            }
        }
        Ok(())
    }
}

/// RST in place of FIN.
fn reset_on_close(stream: &TcpStream) {
    // A socket that is broken already needs none.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
