//! A rule for each language.

use std::collections::BTreeSet;

use crate::pages::{self, Block, Page};
use crate::{commands, none, repository};

#[test]
fn every_block_is_compiled_run_or_checked() {
    let mut problems = Vec::new();
    for page in pages::all() {
        for block in &page.blocks {
            if let Err(problem) = check(page, block) {
                let first = block.text.lines().next().unwrap_or_default();
                let place = format!("{}:{}", page.path, block.line);
                problems.push(format!("{place}: {problem}\n    {first}"));
            }
        }
    }
    none(problems);
}

/// Commands of cargo within sentences and tables too; others there are no more than names.
#[test]
fn every_command_of_cargo_in_a_sentence_exists() {
    let mut problems = Vec::new();
    for page in pages::all() {
        let commands = page.spans.iter().filter(|(_, span)| span.starts_with("cargo "));
        for (line, span) in commands {
            if let Err(problem) = commands::check(span) {
                problems.push(format!("{}:{line}: {problem}", page.path));
            }
        }
    }
    none(problems);
}

fn check(page: &Page, block: &Block) -> Result<(), String> {
    if let Some(marker) = &block.marker {
        return match marker.split_once(": ") {
            Some(("run", test)) => run_by(page, test),
            Some(("same", path)) => same_as(block, path),
            _ => Err(format!("unknown marker {marker:?}")),
        };
    }
    let text = block.text.as_str();
    match block.language() {
        "rust" | "no_run" => compiled(page, block),
        "sh" => commands::check(text),
        // Pictures and output; what is typed in it counts.
        "text" | "console" => match typed(text) {
            typed if typed.is_empty() => not_commands(text),
            typed => commands::check(&typed),
        },
        "json" => json(text),
        "toml" => settings(text),
        _ if block.info.is_none() => json(text).or_else(|_| commands::check(text)),
        other => Err(format!("no rule for {other:?}: mark who runs it, or what it is the same as")),
    }
}

/// The lines behind a prompt.
fn typed(text: &str) -> String {
    let typed = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
    typed.map(|line| format!("{line}\n")).collect()
}

/// Calling it text must not be the way around the rules.
fn not_commands(text: &str) -> Result<(), String> {
    let command = ["cargo", "bao", "vault", "docker", "psql", "kubectl", "curl", "leasehold"];
    let is_one = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        matches!(commands::program(&words), [first, _, ..] if command.contains(&first.as_str()))
    };
    match text.lines().find(is_one) {
        None => Ok(()),
        Some(line) => Err(format!("a command in a block of text: {line}")),
    }
}

/// TOML, in which crates of ours are there in that version and with those features.
fn settings(text: &str) -> Result<(), String> {
    let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = table.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        for (name, told) in dependencies.iter().filter(|(name, _)| name.starts_with("leasehold")) {
            let package =
                repository::packages().get(name).ok_or_else(|| format!("no package {name}"))?;
            let version = told.as_str().or_else(|| told.get("version")?.as_str());
            if version
                .is_some_and(|v| !format!("{}.", package.version).starts_with(&format!("{v}.")))
            {
                return Err(format!("{name} has the version {}", package.version));
            }
            for feature in
                told.get("features").and_then(toml::Value::as_array).into_iter().flatten()
            {
                if !package.features.iter().any(|known| Some(known.as_str()) == feature.as_str()) {
                    return Err(format!("{name} has no feature {feature:?}"));
                }
            }
        }
    }
    Ok(())
}

/// One value, or one a line.
fn json(text: &str) -> Result<(), String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    values.collect::<Result<Vec<_>, _>>().map(drop).map_err(|e| format!("no JSON: {e}"))
}

/// In something that is no page: a page is not checked by what it says itself.
fn same_as(block: &Block, path: &str) -> Result<(), String> {
    if path.ends_with(".md") {
        return Err(format!("{path} is a page as well"));
    }
    if block.text.trim().is_empty() {
        return Err("an empty block is the same as anything".to_owned());
    }
    let there = repository::files().iter().any(|file| file == path);
    match there.then(|| repository::read(path)) {
        None => Err(format!("there is no {path}")),
        Some(text) if text.contains(&block.text) => Ok(()),
        Some(_) => Err(format!("it does not stand in {path}")),
    }
}

/// The test exists, is one, and knows the page.
fn run_by(page: &Page, test: &str) -> Result<(), String> {
    let (files, name): (Vec<&str>, &str) = match test.rsplit_once("::") {
        Some((file, name)) => (vec![file], name),
        None => {
            let ours = |file: &&str| file.starts_with("tests/tests/docs_are_true/");
            (repository::files().iter().map(String::as_str).filter(ours).collect(), test)
        }
    };
    let declared = format!("fn {name}(");
    for file in files {
        if !repository::files().iter().any(|f| f == file) {
            return Err(format!("there is no {file}"));
        }
        let text = repository::read(file);
        let Some((before, _)) = text.split_once(&declared) else { continue };
        let attributes = before.rsplit("\n\n").next().unwrap_or_default();
        if !attributes.contains("#[test]") && !attributes.contains("#[tokio::test") {
            return Err(format!("{name} in {file} is no test"));
        }
        return match names(file, &text, &page.path) {
            true => Ok(()),
            false => Err(format!("{file} does not name {}", page.path)),
        };
    }
    Err(format!("there is no test {name}"))
}

/// A file names a page by its path: from the root, from the file's own folder, or behind that of its
/// package.
fn names(file: &str, text: &str, page: &str) -> bool {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    text.split('"').filter(|said| said.ends_with(".md")).any(|said| {
        let behind = said.starts_with("/../").then(|| said.trim_start_matches("/.."));
        said == page
            || repository::resolve(folder, said).as_deref() == Some(page)
            || behind.and_then(|path| path.strip_prefix('/')) == Some(page)
    })
}

/// As a doctest: the page is included somewhere as documentation, and rustdoc does not skip it.
fn compiled(page: &Page, block: &Block) -> Result<(), String> {
    let info = block.info.as_deref().unwrap_or_default();
    if info.contains("ignore") {
        return Err("an ignored block is compiled by nobody".to_owned());
    }
    match doctests().contains(&page.path) {
        true => Ok(()),
        false => Err("the page is in no doctest: include it in tests/src/lib.rs".to_owned()),
    }
}

/// The pages that are included as documentation where doctests are made.
fn doctests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in repository::files().iter().filter(|file| file.ends_with(".rs")) {
        let text = repository::read(file);
        // The manual is shown there and compiled elsewhere.
        if text.contains("not(doctest)") {
            continue;
        }
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        for line in text.lines().filter(|line| line.trim_start().starts_with("#")) {
            let Some((_, rest)) = line.split_once("doc = include_str!(\"") else { continue };
            found.extend(repository::resolve(folder, rest.split('"').next().unwrap()));
        }
    }
    found
}

#[test]
fn the_rules_are_kept() {
    let page = Page::parse(
        "README.md",
        "```rust,ignore\nx\n```\n```py\nx\n```\n```\nx\n```\n```text\ncargo demo\n```\n\
         ```text\n$ cargo nonsense\n```\n```json\n{\n```\n<!-- run: nobody -->\n```sql\nx\n```\n\
         <!-- run: tests/tests/none.rs::x -->\n```sql\nx\n```\n<!-- same: LICENSE-MIT -->\n\
         ```hcl\nnot there\n```\n<!-- run: slug -->\n```hcl\nno test\n```\n```sh\nrm -rf x\n```\n\
         ```console\nbao read nonsense\n```\n```text\nsudo docker run x\n```\n\
         ```text\nVAULT_ADDR=x bao read nonsense\n```\n\
         <!-- same: README.md -->\n```hcl\nLeasehold\n```\n\
         <!-- same: LICENSE-MIT -->\n```hcl\n```\n\
         ```toml\n[dependencies]\nleasehold = \"99\"\n```\n\
         ```toml\n[dependencies]\nleasehold-nonsense = \"0.1\"\n```\n\
         ```toml\n[dependencies]\nleasehold = { version = \"0.1\", features = [\"nonsense\"] }\n```\n",
    );
    let passed: Vec<_> = page.blocks.iter().filter(|b| check(&page, b).is_ok()).collect();
    assert!(passed.is_empty() && page.blocks.len() == 19, "{passed:?}");
    // A test that runs another page of the same name is none of this one's.
    let marked = "<!-- run: pods_can_log_in -->\n```hcl\nx\n```\n";
    for (path, runs) in [("deploy/kubernetes/README.md", true), ("fuzz/README.md", false)] {
        let page = Page::parse(path, marked);
        assert_eq!(check(&page, &page.blocks[0]).is_ok(), runs, "{path}");
    }
    let good = "```toml\n[dependencies]\nleasehold = { version = \"0.1\", features = [\"metrics\"] }\n```\n";
    let page = Page::parse("README.md", good);
    assert_eq!(check(&page, &page.blocks[0]), Ok(()));
    let other = Page::parse("docs/errors.md", "```rust\nx\n```\n");
    assert!(check(&other, &other.blocks[0]).unwrap_err().contains("in no doctest"));
}
