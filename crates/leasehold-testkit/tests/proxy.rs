//! The fault proxy, on traffic of the real servers.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use leasehold_testkit::{
    Catch, DatabaseSpec, Direction, FaultProxy, TestDb, Then, Toxic, eventually, shared,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};

const SOON: Duration = Duration::from_secs(30);
const HEALTH: &[u8] = b"GET /v1/sys/seal-status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn client(db: &TestDb, proxy: &FaultProxy) -> Result<Client, tokio_postgres::Error> {
    let stack = db.stack();
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(proxy.port())
        .user(stack.superuser())
        .password(stack.superuser_password())
        .dbname(db.name())
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn vault(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// One whole answer.
async fn ask(proxy: &FaultProxy) -> std::io::Result<Vec<u8>> {
    let mut stream = vault(proxy).await;
    stream.write_all(HEALTH).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn everything_passes_unchanged_both_ways() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("passes")).await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let client = client(&db, &proxy).await.unwrap();
    let sent: String = (0..300_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for slow in [false, true] {
        if slow {
            let jitter = Duration::from_millis(3);
            proxy.inject(Direction::Both, Toxic::Latency { delay: jitter, jitter }).await;
        }
        let row = client.query_one("select $1::text", &[&sent]).await.unwrap();
        assert!(row.get::<_, String>(0) == sent, "jitter keeps the order");
    }
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    drop(client);
    eventually("the connection is gone", SOON, async || Ok(proxy.open() == 0)).await.unwrap();
}

#[tokio::test]
async fn latency_and_bandwidth_hold_up_one_direction() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("slow")).await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let client = client(&db, &proxy).await.unwrap();
    let delay = Duration::from_millis(200);
    let ways = [(Direction::Requests, 1), (Direction::Answers, 1), (Direction::Both, 2)];
    for (way, times) in ways {
        proxy.inject(way, Toxic::Latency { delay, jitter: Duration::ZERO }).await;
        let begun = Instant::now();
        client.simple_query("select 1").await.unwrap();
        assert!(begun.elapsed() >= delay * times, "{way:?}");
        proxy.mend().await;
    }
    proxy.inject(Direction::Answers, Toxic::Bandwidth(20_000)).await;
    let begun = Instant::now();
    client.simple_query("select repeat('x', 10000)").await.unwrap();
    // The last piece's pause is nobody's to wait for.
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());

    // Mended, it hurries: at that rate this would take three hours.
    proxy.inject(Direction::Answers, Toxic::Bandwidth(1)).await;
    let query = client.simple_query("select repeat('x', 10000)");
    let (answer, ()) = tokio::join!(query, proxy.mend());
    answer.unwrap();
}

#[tokio::test]
async fn reset_cuts_what_is_open_and_what_comes() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("reset")).await.unwrap();
    let (pg, bao) = (stack.postgres_proxy().await.unwrap(), stack.vault_proxy().await.unwrap());
    let open = client(&db, &pg).await.unwrap();
    let mut idle = vault(&bao).await;
    idle.write_all(&HEALTH[..20]).await.unwrap();
    for proxy in [&pg, &bao] {
        eventually("it is open", SOON, async || Ok(proxy.open() == 1)).await.unwrap();
        proxy.inject(Direction::Both, Toxic::Reset).await;
        assert_eq!(proxy.open(), 0, "in force when it returns");
    }
    let e = idle.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ConnectionReset);
    open.simple_query("select 1").await.unwrap_err();
    assert!(client(&db, &pg).await.is_err(), "each new one too");
    // In the handshake or right after it.
    assert_eq!(ask(&bao).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    pg.mend().await;
    bao.mend().await;
    open.simple_query("select 1").await.unwrap_err();
    client(&db, &pg).await.unwrap().simple_query("select 1").await.unwrap();
    assert!(ask(&bao).await.unwrap().starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn refuse_closes_the_port_and_mending_opens_the_same() {
    let stack = shared().await.unwrap();
    let proxy = stack.vault_proxy().await.unwrap();
    let mut open = vault(&proxy).await;
    for _ in 0..3 {
        proxy.inject(Direction::Both, Toxic::Refuse).await;
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        proxy.mend().await;
        assert!(ask(&proxy).await.unwrap().starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(open.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Nobody listens before a server that is not there yet.
    let nowhere = FaultProxy::before("127.0.0.1:1").await.unwrap();
    assert_eq!(ask(&nowhere).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn half_an_answer_is_exactly_that() {
    let stack = shared().await.unwrap();
    let proxy = stack.vault_proxy().await.unwrap();
    let cut = |then| proxy.inject(Direction::Answers, Toxic::Cut { after: 40, then });
    cut(Then::Close).await;
    assert_eq!(ask(&proxy).await.unwrap().len(), 40);

    cut(Then::Reset).await;
    let mut stream = vault(&proxy).await;
    stream.write_all(HEALTH).await.unwrap();
    let mut read = Vec::new();
    let e = stream.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ConnectionReset);
    assert!(read.len() <= 40, "a reset may overtake them");

    cut(Then::Hold).await;
    let mut stream = vault(&proxy).await;
    stream.write_all(HEALTH).await.unwrap();
    let mut half = [0; 40];
    stream.read_exact(&mut half).await.unwrap();
    let (mut rest, other) = (Vec::new(), stack.vault_proxy().await.unwrap());
    tokio::select! {
        biased;
        _ = stream.read_to_end(&mut rest) => panic!("the rest came"),
        whole = ask(&other) => drop(whole.unwrap()),
    }
    assert!(rest.is_empty());
    proxy.mend().await;
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(half.starts_with(b"HTTP/1.1 200") && rest.ends_with(b"}\n"));
}

/// On a connection that lives on, each answer is counted by itself.
#[tokio::test]
async fn what_one_side_says_is_counted_from_the_others_last_word() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("turns")).await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let client = client(&db, &proxy).await.unwrap();
    proxy.inject(Direction::Answers, Toxic::Cut { after: 400, then: Then::Close }).await;
    for _ in 0..20 {
        client.simple_query("select repeat('x', 100)").await.unwrap();
    }
    client.simple_query("select repeat('x', 1000)").await.unwrap_err();
    assert!(client.is_closed());
}

#[tokio::test]
async fn a_black_hole_keeps_what_is_said_until_it_is_mended() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("hole")).await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let open = client(&db, &proxy).await.unwrap();
    let other = stack.postgres_proxy().await.unwrap();
    let beside = client(&db, &other).await.unwrap();
    for way in [Direction::Requests, Direction::Answers, Direction::Both] {
        proxy.inject(way, Toxic::BlackHole).await;
        let mut query = std::pin::pin!(open.simple_query("select 1"));
        let mut dial = std::pin::pin!(client(&db, &proxy));
        tokio::select! {
            biased;
            _ = &mut query => panic!("an answer came through {way:?}"),
            _ = &mut dial => panic!("a login came through {way:?}"),
            passed = beside.simple_query("select pg_sleep(0.1)") => drop(passed.unwrap()),
        }
        proxy.mend().await;
        query.await.unwrap();
        dial.await.unwrap();
    }
}

#[tokio::test]
async fn a_trap_holds_a_request_before_the_server_sees_it() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("trap")).await.unwrap();
    let proxy = stack.vault_proxy().await.unwrap();
    let trap = proxy.trap(Catch::request(format!("{}/creds/", db.mount())));
    let path = format!("/v1/{}/creds/{}", db.mount(), db.role());
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nConnection: close\r\n\r\n",
        stack.root_token()
    );
    // In two pieces, which the trap puts together.
    let (one, two) = request.split_at(12);
    let mut stream = vault(&proxy).await;
    stream.set_nodelay(true).unwrap();
    stream.write_all(one.as_bytes()).await.unwrap();
    ask(&proxy).await.expect("others pass");
    assert_eq!(trap.count(), 0);
    stream.write_all(two.as_bytes()).await.unwrap();
    let caught = trap.caught().await;
    assert_eq!(caught, 1, "the first connection");
    assert!(db.leases().await.unwrap().is_empty());

    // The answer on that connection, and on no other.
    let answer = proxy.trap(Catch::answer("HTTP/1.1").on(caught));
    ask(&proxy).await.unwrap();
    trap.release();
    assert_eq!(answer.caught().await, caught);
    assert_eq!(db.leases().await.unwrap().len(), 1, "the server has done it");
    proxy.inject(Direction::Both, Toxic::Reset).await;
    drop(answer);
    let e = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_trap_holds_connections_as_many_as_it_is_told() {
    let stack = shared().await.unwrap();
    let db = stack.database(DatabaseSpec::new("dials")).await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let trap = proxy.trap(Catch::connection().times(2));
    let dial = || {
        let (db, proxy) = (db.clone(), proxy.clone());
        tokio::spawn(async move { client(&db, &proxy).await })
    };
    let held = [dial(), dial()];
    trap.holds(2).await;
    client(&db, &proxy).await.expect("the third is not held");
    assert!(held.iter().all(|dial| !dial.is_finished()));
    drop(trap);
    for dial in held {
        dial.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_way_from_vault_to_postgres_can_be_broken_as_well() {
    let stack = shared().await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let spec = DatabaseSpec::new("between").postgres_at(proxy.address());
    let db = stack.database(spec).await.unwrap();
    let before = db.creds().await.unwrap();
    proxy.inject(Direction::Both, Toxic::Refuse).await;
    db.creds().await.unwrap_err();
    db.connect(&before.username, &before.password).await.expect("the others' way is free");
    proxy.mend().await;
    eventually("the engine connects again", SOON, async || Ok(db.creds().await.is_ok()))
        .await
        .unwrap();
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let stack = shared().await.unwrap();
    let proxy = stack.vault_proxy().await.unwrap();
    let clone = proxy.clone();
    let address = proxy.address();
    drop(proxy);
    ask(&clone).await.unwrap();
    let mut open = vault(&clone).await;
    drop(clone);
    assert!(matches!(open.read(&mut [0; 8]).await, Ok(0) | Err(_)), "its connections too");
    eventually("nobody listens", SOON, async || Ok(TcpStream::connect(&address).await.is_err()))
        .await
        .unwrap();
}
