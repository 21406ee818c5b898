//! What the help and the docs tell people to type can be typed.

#![allow(clippy::unwrap_used)]

use clap::{CommandFactory, Parser};

use crate::args::Cli;

/// The words of a line, as far as a pipe or a redirection. Every other piece between single quotes
/// is one word, or a part of one.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate().map(|(n, piece)| match n % 2 {
        1 => piece.replace(' ', "\u{1}"),
        _ => piece.to_owned(),
    });
    let line: String = quoted.collect();
    let words = line.split_whitespace().take_while(|w| !matches!(*w, ">" | "|" | "&&" | "#"));
    words.map(|word| word.replace('\u{1}', " ")).collect()
}

fn assert_parses(place: &str, line: &str) {
    if let Err(e) = Cli::try_parse_from(words(line)) {
        assert!(!e.use_stderr(), "{place}: {line}\n{e}");
    }
}

#[test]
fn each_example_of_the_help_parses() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> =
            help.lines().map(str::trim).filter(|line| line.starts_with("leasehold ")).collect();
        assert!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            assert!(example.contains(name), "{name}: {example}");
            assert_parses(name, example);
        }
    }
    Cli::command().debug_assert();
}

/// All pages of the repository, by their paths from its root.
fn pages() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut pages, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if name.to_string_lossy().ends_with(".md") {
                let text = std::fs::read_to_string(&path).unwrap();
                pages.push((path.strip_prefix(&root).unwrap().display().to_string(), text));
            }
        }
    }
    pages
}

/// A line's command of ours: behind a prompt, variables, `sudo`, another command or `$(`.
fn command(line: &str) -> Option<&str> {
    line.match_indices("leasehold ").map(|(at, _)| line.split_at(at)).find_map(|(before, rest)| {
        let last = before.rsplit(['|', ';', '&', '(']).next().unwrap_or(before);
        let mut skipped = last.split_whitespace();
        let typed = |word| word == "$" || word == "sudo" || is_assignment(word);
        let apart = before.is_empty() || before.ends_with([' ', '(', '|', ';', '&']);
        let inner = if before.ends_with("$(") { rest.split(')').next() } else { None };
        (apart && skipped.all(typed)).then_some(inner.unwrap_or(rest))
    })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

#[test]
fn each_command_of_the_docs_parses() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for (page, text) in pages() {
        let mut block = None;
        // A command goes on behind a backslash.
        for line in text.replace("\\\n", " ").lines() {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                block = if block.is_some() { None } else { Some(info.trim().to_owned()) };
            } else if matches!(block.as_deref(), Some("sh" | "console" | "text")) {
                // In other blocks than scripts there are sentences too: what is typed has a prompt.
                let script = block.as_deref() == Some("sh");
                if let Some(typed) = command(line)
                    && (script || line.trim_start().starts_with("$ "))
                {
                    assert_parses(&page, typed);
                    *seen.entry(page.clone()).or_default() += 1;
                }
            }
        }
    }
    for page in ["docs/cli.md", "docs/doctor.md", "crates/leasehold-cli/README.md"] {
        assert!(seen.get(page).is_some_and(|count| *count > 4), "{page}: {seen:?}");
    }
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for command in ["exec", "watch", "dev", "import", "completions"] {
        assert!(docs.contains(&format!("\n## {command}\n")), "{command} has no section");
    }
}

#[test]
fn a_command_is_found_in_its_line() {
    for (line, found) in [
        ("$ leasehold dev", Some("leasehold dev")),
        ("VAULT_ADDR=x sudo leasehold dev", Some("leasehold dev")),
        ("cd x && leasehold dev", Some("leasehold dev")),
        ("eval \"$(leasehold completions bash)\"", Some("leasehold completions bash")),
        ("cargo install leasehold-cli", None),
        ("cargo run -p leasehold -- x", None),
    ] {
        assert_eq!(command(line), found, "{line}");
    }
}
