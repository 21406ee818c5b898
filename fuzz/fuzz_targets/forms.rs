//! Logins as people and tools write them, and what Postgres says of a login.

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
    Keys(Vec<(&'a str, &'a str)>),
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

fuzz_target!(|input: Input<'_>| match input {
    Input::Text(text) => {
        shows_nothing(LoginForm::parse("the file", text).and_then(|form| {
            no_secret_in(&format!("{form:?}"));
            form.into_credential("the file")
        }));
    }
    Input::Url(url) => shows_nothing(Credential::from_url(url)),
    Input::Keys(keys) => {
        let mut form = LoginForm::default();
        for (key, value) in keys {
            form.set(key, value);
        }
        shows_nothing(form.into_credential("the folder"));
    }
    Input::Login(login) => login.comes_back(),
    Input::Sqlstate(code) => {
        let refusal = Refusal::of(Some(code));
        assert!(!Refusal::is_authentication(code) || refusal == Refusal::Login);
    }
});

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
        let address = Address::new().host("db.internal").port(port).database(database);
        let expected = Credential::new(username, password).with_address(address);
        let is_back = |form: &str, got: Result<Credential, SourceError>| match got {
            Ok(got) => {
                assert_eq!(got.username(), username, "{form}");
                assert_eq!(got.expose_password(), password, "{form}");
                assert_eq!(got.address(), expected.address(), "{form}");
            }
            Err(e) => assert!(expected.fault().is_some(), "{form}: {e}"),
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
