//! What the documents say is so: their code is compiled or run, their commands exist, their links
//! lead somewhere.
//!
//! Each block of code has a language, and each language a rule, in `rules.rs`; a block that no rule
//! knows fails. A block that has to be run says by whom, in a comment before it:
//!
//! - `<!-- run: NAME -->`: a test of this program, which takes its blocks by [`pages::Page::run`];
//! - `<!-- run: crates/x/tests/y.rs::NAME -->`: a test elsewhere, which names the page;
//! - `<!-- same: PATH -->`: the block stands in that file, word for word.

#![allow(clippy::unwrap_used)]

mod commands;
mod links;
mod logging_in;
mod manual;
mod migration;
mod names;
mod pages;
mod repository;
mod rules;
mod setting_up;

/// One list of all that is wrong, since mending one thing at a time is slow.
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
