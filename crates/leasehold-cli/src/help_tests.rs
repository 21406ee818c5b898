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

#[test]
fn each_command_of_the_docs_parses() {
    for (file, least) in
        [("docs/cli.md", 10), ("docs/doctor.md", 5), ("crates/leasehold-cli/README.md", 8)]
    {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let text = std::fs::read_to_string(format!("{path}{file}")).unwrap();
        // A line that goes on in the next is one.
        let text = text.replace("\\\n", " ");
        let mut inside = false;
        let mut seen = 0;
        for line in text.lines() {
            if line.starts_with("```") {
                inside = !inside && line == "```sh";
            } else if inside && line.starts_with("leasehold ") {
                assert_parses(file, line);
                seen += 1;
            }
        }
        assert!(seen >= least, "{file}: {seen} commands");
    }
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for command in ["exec", "watch", "dev", "import", "completions"] {
        assert!(docs.contains(&format!("\n## {command}\n")), "{command} has no section");
    }
}
