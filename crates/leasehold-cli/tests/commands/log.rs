//! What the library logs is on stderr, as much of it as was asked for.

use crate::program::{plain, run};

const WARNING: &str = "WARN";
const NAMED: &str = "the server's certificate is not verified";

#[test]
fn warnings_are_shown_and_more_where_it_is_asked_for() {
    for (arguments, rust_log, shown) in [
        (&["exec", "--role", "app", "--", "true"][..], None, true),
        (&["watch", "--role", "app"], None, true),
        // Its report has it all.
        (&["doctor", "--role", "app"], None, false),
        (&["-v", "doctor", "--role", "app"], None, true),
        (&["doctor", "--role", "app", "-vv"], None, true),
        (&["watch", "--role", "app"], Some("leasehold_vault=error"), false),
        (&["doctor", "--role", "app"], Some("leasehold_vault=warn"), true),
    ] {
        // Nothing listens there.
        let mut command = plain(arguments);
        command.env("VAULT_ADDR", "https://127.0.0.1:1").env("VAULT_TOKEN", "s.hunter2");
        command.env("VAULT_SKIP_VERIFY", "true").env("PGDATABASE", "orders");
        command.envs(rust_log.map(|level| ("RUST_LOG", level)));
        let (code, said) = run(&mut command);
        assert!(code.is_some_and(|code| code > 0), "{said}");
        let logged = said.lines().any(|line| line.contains(WARNING) && line.contains(NAMED));
        assert_eq!(logged, shown, "{arguments:?} {rust_log:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn other_libraries_are_never_logged() {
    let mut command = plain(&["exec", "-vvv", "--role", "app", "--", "true"]);
    command.env("VAULT_ADDR", "http://127.0.0.1:1").env("VAULT_TOKEN", "s.hunter2");
    let (_, said) = run(command.env("RUST_LOG", "trace"));
    let foreign = said.lines().find(|line| line.contains("TRACE") && !line.contains("leasehold"));
    assert!(foreign.is_none() && !said.contains("hunter2"), "{said}");
}
