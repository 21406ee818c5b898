use std::collections::HashMap;

use serde::Deserialize;

use super::*;

fn node(json: &str) -> Node {
    serde_json::from_str(json).expect("JSON")
}

fn told<T: DeserializeOwned>(node: &Node) -> Vec<String> {
    match typed::<T>(node) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Plain,
    Limited(u32),
    Split { left: u8 },
}

#[derive(Deserialize, Debug, PartialEq)]
struct Tls {
    cert: String,
    verify: bool,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Smtp {
    host: String,
    port: u16,
    #[serde(default)]
    from: Option<String>,
    mode: Mode,
    tls: Tls,
    hosts: Vec<String>,
    pair: (i8, f64),
    #[serde(default)]
    extra: HashMap<String, String>,
}

const WHOLE: &str = r#"{"host":"h","port":25,"mode":"plain","tls":{"cert":"c","verify":true},
    "hosts":["a","b"],"pair":[-1,0.5],"extra":{"x":"y"},"not":"ours"}"#;
/// As somebody writes it by hand, value by value.
const BY_HAND: &str = r#"{"host":"h","port":" 25 ","mode":"plain",
    "tls":"{\"cert\":\"c\",\"verify\":\"true\"}","hosts":"[\"a\",\"b\"]","pair":"[-1,0.5]",
    "extra":{"x":"y"}}"#;

#[test]
fn text_stands_for_what_the_field_is() {
    let whole: Smtp = typed(&node(WHOLE)).expect("all there");
    assert_eq!(whole.pair, (-1, 0.5));
    assert_eq!(whole, typed(&node(BY_HAND)).expect("all there"));
    let modes: Vec<Mode> =
        typed(&node(r#"[{"limited":"3"},{"split":{"left":1}},{"plain":null}]"#)).expect("modes");
    assert_eq!(modes, [Mode::Limited(3), Mode::Split { left: 1 }, Mode::Plain]);
    // What is text stays it, whatever it looks like.
    let texts: HashMap<String, String> =
        typed(&node(r#"{"a":"5","b":"{}","c":""}"#)).expect("texts");
    assert_eq!((&*texts["a"], &*texts["b"], &*texts["c"]), ("5", "{}", ""));
    let same: serde_json::Value = typed(&node(WHOLE)).expect("JSON");
    assert_eq!(same, serde_json::from_str::<serde_json::Value>(WHOLE).expect("JSON"));
}

#[test]
fn all_that_is_missing_or_wrong_is_found_at_once_and_no_value_is_said() {
    let bad = r#"{"port":"hunter2","mode":"hunter2","tls":{"verify":"hunter2"},
        "hosts":["a",["hunter2"]],"pair":[1]}"#;
    let told = told::<Smtp>(&node(bad));
    for (key, what) in [
        ("`host`", "missing"),
        ("`port`", "text, and u16 is wanted"),
        ("`mode`", "none of: plain, limited, split"),
        ("`tls.cert`", "missing"),
        ("`tls.verify`", "text, and a boolean is wanted"),
        ("`hosts.1`", "a list, and a string is wanted"),
        ("`pair`", "1 entries"),
    ] {
        let found = told.iter().any(|line| line.contains(key) && line.contains(what));
        assert!(found, "{key} {what}: {told:#?}");
    }
    assert_eq!(told.len(), 7, "and nothing that is not so: {told:#?}");
    assert!(!format!("{told:?}").contains("hunter2"), "I10: {told:?}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    #[expect(dead_code, reason = "only read")]
    a: u8,
}

/// Takes no value that could be made up for it.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Picky;

impl TryFrom<String> for Picky {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text == "right" { Ok(Self) } else { Err(format!("{text} is wrong")) }
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only read")]
struct WithPicky {
    inner: Inner,
    last: u8,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Inner {
    picky: Picky,
}

#[test]
fn a_key_that_is_none_of_the_settings_and_a_type_of_its_own_are_told() {
    let told_strict = told::<Strict>(&node(r#"{"b":1,"c":"hunter2"}"#));
    assert_eq!(
        told_strict,
        ["`b` is none of the settings", "`c` is none of the settings", "`a` is missing"]
    );
    let picky = told::<Picky>(&node(r#""hunter2""#));
    assert_eq!(picky, ["the whole is not what the settings take"]);
    // Nothing is said of what was made up.
    assert_eq!(told::<WithPicky>(&node("{}")), ["`inner` is missing"]);
    let nothing_to_say = typed_without::<WithPicky>(&node(r#"{"last":1}"#), &["inner".to_owned()]);
    assert_eq!(nothing_to_say.err().map(|found| found.len()), Some(0));
    assert!(typed::<Picky>(&node(r#""right""#)).is_ok());
    assert_eq!(told::<Smtp>(&node("[]")).len(), 1);
}
