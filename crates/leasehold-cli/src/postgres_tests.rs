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
