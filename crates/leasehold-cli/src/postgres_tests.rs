#![allow(clippy::unwrap_used)]

use super::*;

fn parse(url: &str) -> Result<(Server, Option<Login>), String> {
    Server::from_url("DATABASE_URL", url).map_err(|e| e.to_string())
}

#[test]
fn an_address_is_read_as_libpq_does() {
    let (server, login) = parse(
        "postgresql://joe:p%40ss%26=+@[::1]:5433/or%20ders?sslmode=verify-full&sslrootcert=/ca",
    )
    .unwrap();
    assert_eq!(server.shown(), "[::1]:5433/or ders");
    assert!(server.is_local());
    assert_eq!((server.mode, server.root.as_deref()), (Mode::VerifyFull, Some("/ca")));
    let login = login.unwrap();
    assert_eq!((login.user.as_str(), login.password.as_str()), ("joe", "p@ss&=+"));
    let (server, login) = parse("postgres://db.internal/orders?pool_max=3").unwrap();
    assert_eq!((server.shown().as_str(), server.mode), ("db.internal:5432/orders", Mode::Prefer));
    assert!(login.is_none() && !server.is_local());
}

#[test]
fn what_is_wrong_with_an_address_is_said_without_it() {
    for (url, problem) in [
        ("postgres://joe:topsecret@db", "names no database"),
        ("mysql://joe:topsecret@db/x", "does not begin with postgres://"),
        ("postgres://joe:topsecret@db:port/x", "is not a URL"),
        ("postgres://joe:topsecret@db/x?sslmode=topsecret", "is none of disable"),
    ] {
        let e = parse(url).err().unwrap();
        assert!(e.contains(problem) && e.contains("DATABASE_URL"), "{e}");
        assert!(!e.contains("topsecret"), "{e}");
    }
}

#[test]
fn a_place_is_the_same_as_url_and_as_variables() {
    for text in [
        "postgres://db.internal:6432/or%2Fders?sslmode=verify-ca&sslrootcert=%2Fa+b&options=-c+x%3D1",
        "postgres://[::1]:5432/orders?sslmode=prefer",
    ] {
        let (server, _) = parse(text).unwrap();
        let (again, _) = parse(&server.url().unwrap()).unwrap();
        assert_eq!(again.variables(), server.variables());
    }
    let (server, _) = parse("postgres://joe:topsecret@db/x").unwrap();
    let shown = format!("{:?}", server.variables());
    assert!(shown.contains("(\"PGHOST\", \"db\")") && !shown.contains("topsecret"), "{shown}");
    let (socket, _) = parse("postgres:///x?host=/var/run/postgresql").unwrap();
    assert!(socket.url().is_none());
}
