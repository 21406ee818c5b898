//! Logins as people and tools write them, and what Postgres says of a login. The needle stands for
//! each `~` of a text or URL, and is in every password of the other forms.

#![no_main]

use arbitrary::Arbitrary;
use leasehold::hook::Refusal;
use leasehold::{Address, Credential, LoginForm, SourceError};
use leasehold_fuzz::{NEEDLE, no_secret_in, one_line};
use libfuzzer_sys::fuzz_target;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(&'a str),
    Url(&'a str),
    /// A folder of files.
    Keys(Vec<(u8, &'a str)>),
    Login(Login<'a>),
    Sqlstate(&'a str),
}

#[derive(Arbitrary, Debug)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
    port: u16,
    database: &'a str,
}

/// Those of a folder, the last of which is none of a login.
const KEYS: [&str; 11] = [
    "username",
    "PGUSER",
    "password",
    "PGPASSWORD",
    "url",
    "DATABASE_URL",
    "host",
    "port",
    "PGPORT",
    "database",
    "other",
];

fuzz_target!(|input: Input<'_>| match input {
    Input::Text(text) => {
        shows_nothing(LoginForm::parse("the file", &planted(text)).and_then(|form| {
            no_secret_in(&format!("{form:?}"));
            form.into_credential("the file")
        }));
    }
    Input::Url(url) => shows_nothing(Credential::from_url(&planted(url))),
    Input::Keys(keys) => {
        let mut form = LoginForm::default();
        for (pick, value) in keys {
            let key = KEYS[usize::from(pick) % KEYS.len()];
            match key.to_ascii_lowercase().ends_with("password") {
                true => form.set(key, &format!("{value}{NEEDLE}")),
                false => form.set(key, &planted(value)),
            }
        }
        no_secret_in(&format!("{form:?}"));
        shows_nothing(form.into_credential("the folder"));
    }
    Input::Login(login) => login.comes_back(),
    Input::Sqlstate(code) => {
        let refusal = Refusal::of(Some(code));
        assert!(!Refusal::is_authentication(code) || refusal == Refusal::Login);
    }
});

fn planted(text: &str) -> String {
    text.replace('~', NEEDLE)
}

fn shows_nothing(read: Result<Credential, SourceError>) {
    match read {
        Ok(credential) => {
            let none = Address::default();
            let Address { host, database, .. } = credential.address().unwrap_or(&none);
            let names = [Some(credential.username()), host.as_deref(), database.as_deref()];
            let shown = format!("{credential:?}");
            if !names.into_iter().flatten().any(|name| name.contains(NEEDLE)) {
                no_secret_in(&shown);
            }
            one_line(credential.username());
            assert!(!credential.expose_password().contains('\0'));
        }
        Err(e) => {
            no_secret_in(&format!("{e} {e:?}"));
            one_line(&e.to_string());
        }
    }
}

impl Login<'_> {
    fn comes_back(&self) {
        let Self { username, password, port, database } = *self;
        if [username, password, database].contains(&"") {
            return;
        }
        // At either end: the other one is the fuzzer's.
        let password = &*match port % 2 {
            0 => format!("{password}{NEEDLE}"),
            _ => format!("{NEEDLE}{password}"),
        };
        let open = [username, database].iter().any(|name| name.contains(NEEDLE));
        let address = Address::new().host("db.internal").port(port).database(database);
        let expected = Credential::new(username, password).with_address(address);
        let is_back = |form: &str, got: Result<Credential, SourceError>| match got {
            Ok(got) => {
                if !open {
                    no_secret_in(&format!("{got:?}"));
                }
                assert_eq!(got.username(), username, "{form}");
                assert_eq!(got.expose_password(), password, "{form}");
                assert_eq!(got.address(), expected.address(), "{form}");
            }
            Err(e) => {
                no_secret_in(&format!("{e} {e:?}"));
                assert!(expected.fault().is_some(), "{form}: {e}");
            }
        };

        let json = serde_json::json!({
            "username": username, "password": password,
            "host": "db.internal", "port": port, "database": database,
        });
        let json = json.to_string();
        let read = LoginForm::parse("json", &json).and_then(|form| form.into_credential("json"));
        is_back("json", read);

        // In a URL's path these mean a folder, however they are written.
        if ![".", ".."].contains(&database) {
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            let (user, word, name) = (encoded(username), encoded(password), encoded(database));
            let url = format!("postgres://{user}:{word}@db.internal:{port}/{name}");
            is_back("url", Credential::from_url(&url));
        }

        if ![username, password, database].iter().any(|text| text.contains(['\r', '\n'])) {
            let lines = format!(
                "PGUSER=\"{username}\"\nexport PGPASSWORD='{password}'\nPGHOST=db.internal\n\
                 # a comment\nPGPORT={port}\nPGDATABASE=\"{database}\"\n"
            );
            let read = LoginForm::parse("lines", &lines);
            is_back("lines", read.and_then(|form| form.into_credential("lines")));
        }
    }
}
