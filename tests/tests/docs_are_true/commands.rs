//! Commands that no test runs as they stand: what they name exists.

use std::sync::LazyLock;

use crate::repository::{self, Package, packages, read, root};

/// Each command of a block.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let text = text.replace("\\\n", " ");
    for line in text.lines() {
        for command in split(line).map_err(|problem| format!("{problem}: {line}"))? {
            let words = shlex::split(&command).ok_or_else(|| format!("can't be read: {line}"))?;
            let words = program(&words).iter().map(String::as_str);
            // What a redirection names is written or read by the shell.
            let words: Vec<&str> = words.take_while(|word| !is_redirection(word)).collect();
            one(&words).map_err(|problem| format!("{problem}: {line}"))?;
        }
    }
    Ok(())
}

fn is_redirection(word: &str) -> bool {
    word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '&').starts_with(['>', '<'])
}

/// A command from its program on: without variables that are set for it, and `sudo`.
pub(crate) fn program(words: &[String]) -> &[String] {
    let assigned = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        })
    };
    let before = words.iter().take_while(|word| assigned(word) || *word == "sudo").count();
    &words[before..]
}

/// The commands of a line, as a shell takes it apart, those within `$(…)` among them.
fn split(line: &str) -> Result<Vec<String>, String> {
    // What is not at its end yet, the innermost last: its text, and whether it is in double quotes.
    let (mut done, mut open) = (Vec::new(), vec![(String::new(), false)]);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        let depth = open.len();
        let (text, quoted) = open.last_mut().ok_or("a ) too many")?;
        match c {
            '\\' => {
                text.push(c);
                text.extend(rest.next());
            }
            '\'' if !*quoted => {
                text.push(c);
                for c in rest.by_ref() {
                    text.push(c);
                    if c == '\'' {
                        break;
                    }
                }
            }
            '"' => {
                text.push(c);
                *quoted = !*quoted;
            }
            '`' => return Err("a command between backticks".to_owned()),
            '$' if rest.peek() == Some(&'(') => {
                rest.next();
                text.push('$');
                open.push((String::new(), false));
            }
            ')' if !*quoted && depth > 1 => done.extend(open.pop().map(|(text, _)| text)),
            '(' | ')' if !*quoted => return Err("a shell of its own".to_owned()),
            '#' if !*quoted && (text.is_empty() || text.ends_with(' ')) => break,
            // Of a redirection.
            '&' if !*quoted && (text.ends_with('>') || rest.peek() == Some(&'>')) => text.push(c),
            ';' | '|' | '&' if !*quoted => done.push(std::mem::take(text)),
            c => text.push(c),
        }
    }
    let (last, _) = open.pop().ok_or("a ) too many")?;
    if !open.is_empty() {
        return Err("a $( without its end".to_owned());
    }
    done.push(last);
    Ok(done)
}

fn one(command: &[&str]) -> Result<(), String> {
    let Some((program, rest)) = command.split_first() else { return Ok(()) };
    match *program {
        // Names of variables are checked wherever they stand, in `names.rs`.
        "export" | "cd" => Ok(()),
        // Runs what a command says, which stands in its words and is checked by itself.
        "eval" if rest == ["$"] => Ok(()),
        "cargo" => cargo(rest),
        "curl" => curl(rest),
        "docker" => docker(rest),
        "kubectl" => match rest {
            ["apply" | "delete", "-f", path] | ["apply" | "delete", "-n", _, "-f", path] => {
                exists(path)
            }
            _ => Err("only `kubectl apply -f` and `delete -f` are known".to_owned()),
        },
        "psql" => match rest.iter().position(|word| *word == "-f") {
            Some(at) => exists(rest.get(at + 1).ok_or("-f of what?")?),
            None => Err("psql without -f is run by nobody".to_owned()),
        },
        "leasehold" => leasehold(rest),
        // Only to look at what the command before it says.
        "python3" if rest == ["-m", "json.tool"] => Ok(()),
        "grep" | "head" | "jq" | "tee" => Ok(()),
        // What `leasehold policy` says; the command line's own tests write it.
        "bao" => match rest {
            ["policy", "write", _, "-"] => Ok(()),
            ["write", role, file]
                if role.starts_with("database/roles/") && file.starts_with('@') =>
            {
                Ok(())
            }
            _ => Err("let a test run it, and mark which".to_owned()),
        },
        "tar" => packed(rest),

        script if script.contains('/') => {
            exists(script)?;
            use std::os::unix::fs::PermissionsExt;
            let mode = root().join(script).metadata().map_err(|e| e.to_string())?.permissions();
            if mode.mode() & 0o111 == 0 { Err(format!("{script} can't be run")) } else { Ok(()) }
        }
        other => Err(format!("no rule for {other:?}: let a test run it, and mark which")),
    }
}

fn exists(path: &str) -> Result<(), String> {
    if root().join(path).exists() { Ok(()) } else { Err(format!("there is no {path}")) }
}

fn package(name: &str) -> Result<&'static Package, String> {
    packages().get(name).ok_or_else(|| format!("there is no package {name}"))
}

fn cargo(words: &[&str]) -> Result<(), String> {
    let (ours, theirs) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &[][..]),
    };
    let (command, options) = ours.split_first().ok_or("cargo what?")?;
    match *command {
        "test" | "run" | "build" | "bench" | "clippy" | "doc" => {
            let package = cargo_options(options)?;
            match package {
                Some(package) if *command == "run" => flags(&package.folder, theirs),
                _ => Ok(()),
            }
        }
        "install" => installed(options),
        "add" => {
            let mut ours = options.iter().filter(|word| word.starts_with("leasehold"));
            ours.try_for_each(|name| package(name.split('@').next().unwrap()).map(drop))
        }
        "deny" => exists("deny.toml"),
        alias => {
            let settings: toml::Table =
                toml::from_str(&read(".cargo/config.toml")).map_err(|e| e.to_string())?;
            let meaning = settings["alias"].get(alias).and_then(toml::Value::as_str);
            let meaning = meaning.ok_or_else(|| format!("cargo has no command {alias}"))?;
            let meaning: Vec<&str> = meaning.split(' ').collect();
            // What follows a `--` of the alias's own is for the program.
            let ours = meaning.split(|word| *word == "--").next().unwrap_or_default();
            let elsewhere = ours.iter().position(|word| *word == "--manifest-path");
            let folder = match (cargo_options(&ours[1..])?, elsewhere) {
                (Some(package), _) => package.folder.as_str(),
                // Of a workspace of its own.
                (None, Some(at)) => ours[at + 1].trim_end_matches("/Cargo.toml"),
                (None, None) => return Err("an alias names its package".to_owned()),
            };
            if !options.is_empty() {
                return Err("what is for the program stands behind a --".to_owned());
            }
            flags(folder, theirs)
        }
    }
}

/// What cargo itself is told: packages, targets and features exist. Returns the package.
fn cargo_options(words: &[&str]) -> Result<Option<&'static Package>, String> {
    let mut named = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().ok_or_else(|| format!("{word} of what?"));
        match *word {
            "-p" | "--package" => named = Some(package(value()?)?),
            "--test" | "--bin" | "--example" => {
                let target = ((*word).trim_start_matches("--").to_owned(), value()?.to_owned());
                let there = |p: &Package| p.targets.contains(&target);
                let found = named.map_or_else(|| packages().values().any(there), there);
                if !found {
                    return Err(format!("there is no {} {}", target.0, target.1));
                }
            }
            "--features" => {
                let of = named.ok_or("features of which package?")?;
                for feature in value()?.split(',') {
                    if !of.features.iter().any(|known| known == feature) {
                        return Err(format!("there is no feature {feature}"));
                    }
                }
            }
            "--target" => drop(value()?),
            "--manifest-path" => exists(value()?)?,
            "--workspace" | "--release" | "--locked" | "--quiet" | "--all-targets" | "--no-run"
            | "--no-deps" | "--all-features" => {}
            other => return Err(format!("no rule for {other} of cargo")),
        }
    }
    Ok(named)
}

/// Flags of a program of ours are declared in its package.
fn flags(folder: &str, words: &[&str]) -> Result<(), String> {
    let sources = repository::files()
        .iter()
        .filter(|file| file.starts_with(&format!("{folder}/src/")) && file.ends_with(".rs"));
    let sources: String = sources.map(|file| read(file)).collect();
    for word in words {
        let Some(flag) = word.strip_prefix("--").filter(|flag| *flag != "help") else { continue };
        let flag = flag.split('=').next().unwrap();
        let field = flag.replace('-', "_");
        let declared = [format!(" {field}: "), format!("\"--{flag}\""), format!("\"{flag}\"")];
        if !declared.iter().any(|declared| sources.contains(declared)) {
            return Err(format!("{folder} has no --{flag}"));
        }
    }
    Ok(())
}

/// Tools that are installed are our own, or those of CI in its versions.
fn installed(words: &[&str]) -> Result<(), String> {
    if let ["--path", path, ..] = words {
        return exists(path);
    }
    let ci = read(".ci/run");
    for tool in words.iter().filter(|word| !word.starts_with('-')) {
        let (name, version) = tool.split_once('@').unwrap_or((tool, ""));
        let short = name.strip_prefix("cargo-").unwrap_or(name);
        if !ci.contains(&format!("have_cargo {short} {version}")) {
            return Err(format!("CI does not use {tool}"));
        }
    }
    Ok(())
}

/// `tar -c -C FOLDER FILE …`: what is packed is in the repository, or a program that cargo built.
fn packed(words: &[&str]) -> Result<(), String> {
    let mut folder = String::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-c" => {}
            "-C" => {
                let next = words.next().ok_or("-C of what?")?;
                folder = repository::resolve(&folder, next).ok_or("out of the repository")?;
            }
            file if folder.starts_with("target/") => {
                let target = ("bin".to_owned(), file.to_owned());
                if !packages().values().any(|package| package.targets.contains(&target)) {
                    return Err(format!("nothing builds {file}"));
                }
            }
            file => exists(&format!("{folder}/{file}"))?,
        }
    }
    Ok(())
}

/// The routes of the example.
fn curl(words: &[&str]) -> Result<(), String> {
    static ROUTES: LazyLock<String> = LazyLock::new(|| {
        let sources =
            repository::files().iter().filter(|f| f.starts_with("examples/axum-app/src/"));
        sources.filter(|f| f.ends_with(".rs")).map(|f| read(f)).collect()
    });
    let url = words.iter().find(|word| word.contains("localhost:")).ok_or("of which server?")?;
    let path = url.split_once("localhost:").unwrap().1;
    let path = path.find('/').map_or("/", |at| path[at..].split('?').next().unwrap());
    let segment = |part: &str| match part.parse::<u64>() {
        Ok(_) => "{id}".to_owned(),
        Err(_) => part.to_owned(),
    };
    let route = path.split('/').map(segment).collect::<Vec<_>>().join("/");
    match ROUTES.contains(&format!("\"{route}\"")) {
        true => Ok(()),
        false => Err(format!("the example has no route {route}")),
    }
}

fn docker(words: &[&str]) -> Result<(), String> {
    match words {
        ["compose", rest @ ..] => {
            let mut rest = rest.iter();
            let mut files = vec!["docker-compose.yml"];
            let mut command = "";
            while let Some(word) = rest.next() {
                match *word {
                    "-f" => files.push(rest.next().ok_or("-f of what?")?),
                    word => {
                        command = word;
                        break;
                    }
                }
            }
            files.iter().try_for_each(|file| exists(file))?;
            match command {
                "up" | "down" | "stop" | "logs" | "ps" | "build" => Ok(()),
                other => Err(format!("no rule for docker compose {other}")),
            }
        }
        // What is built is read from a pipe, and so is the Dockerfile: of the repository's, one.
        ["build", "-f", file, .., "-"] => {
            let there = |known: &String| known.rsplit('/').next() == Some(*file);
            let found = repository::files().iter().any(there);
            if found { Ok(()) } else { Err(format!("there is no {file}")) }
        }
        ["build", rest @ ..] => match rest.iter().position(|word| *word == "-f") {
            Some(at) => exists(rest.get(at + 1).ok_or("-f of what?")?),
            None => Err("docker build without -f".to_owned()),
        },
        // Leftovers are found by a label of the test kit's.
        ["rm", options @ .., "$"] if options.iter().all(|word| word.starts_with('-')) => Ok(()),
        ["rm" | "ps" | "network" | "volume", ..] => {
            let label = words.iter().find_map(|word| word.split_once("label="));
            let label = label.ok_or("of which label?")?.1;
            match repository::code().contains(&format!("\"{label}\"")) {
                true => Ok(()),
                false => Err(format!("nobody sets the label {label}")),
            }
        }
        _ => Err("no rule for this use of docker".to_owned()),
    }
}

/// The command line has a test of its own (`help_tests.rs`), which parses such lines of all pages;
/// here: that it has the command and the flags, up to those of a command that it runs.
fn leasehold(words: &[&str]) -> Result<(), String> {
    let cli = package("leasehold-cli")?;
    let ours = words.split(|word| *word == "--").next().unwrap_or_default();
    let command = ours.iter().find(|word| !word.starts_with('-')).ok_or("leasehold what?")?;
    let mut variant = (*command).to_owned();
    variant[..1].make_ascii_uppercase();
    let sources = repository::files().iter().filter(|f| f.starts_with(&cli.folder));
    let sources: String = sources.filter(|f| f.ends_with(".rs")).map(|f| read(f)).collect();
    if !["(", " {", ","].iter().any(|end| sources.contains(&format!("    {variant}{end}"))) {
        return Err(format!("leasehold has no command {command}"));
    }
    flags(&cli.folder, ours)
}

#[test]
fn what_does_not_exist_is_told() {
    for good in [
        "cargo demo -- --for 30s   # a comment",
        "cargo test -p leasehold-tests --features containers --test docs_are_true",
        "cargo api -- --write",
        "tar -c -C deploy/vault setup.sh -C ../../target/release axum-app",
        "X='1 2' cargo screenshot",
        "deploy/vault/setup.sh && cargo run -p axum-app",
        "curl -s 'localhost:3000/accounts?limit=3' | python3 -m json.tool",
        "psql -d orders \\\n  -f deploy/vault/postgres.sql",
        "cd deploy; cargo demo 2>&1 | head > out.txt &",
        "kubectl apply -n orders -f deploy/kubernetes/orders.yaml",
        "docker rm -fv $(docker ps -aq --filter label=leasehold-testkit)",
        "export X='a; b' Y=\"c | d\"",
    ] {
        check(good).unwrap();
    }
    for bad in [
        "cargo demo -- --undeclared",
        "cargo nonsense",
        "cargo test -p nonsense",
        "cargo test -p leasehold --test nonsense",
        "cargo test -p leasehold --features nonsense",
        "cargo install nonsense",
        "cargo install --path crates/nonsense",
        "cargo demo --for 30s",
        "curl localhost:3000/nonsense",
        "psql -d orders",
        "psql -f nonsense.sql",
        "docker compose -f nonsense.yml up",
        "docker build -f nonsense -t x -",
        "tar -c -C deploy/vault nonsense",
        "tar -c -C target/release nonsense",
        "bao policy write orders nonsense.hcl",
        "docker ps -q --filter label=nobody-sets-it",
        "kubectl apply -f deploy/nonsense",
        "deploy/nonsense.sh",
        "true && bao read nonsense",
        "cd x; bao read nonsense",
        "cd x || bao read nonsense",
        "cd x & bao read nonsense",
        "cd x|bao read nonsense",
        "cd $(bao read nonsense)",
        "cd \"$(bao read nonsense)\"",
        "cd `bao read nonsense`",
        "(bao read nonsense)",
        "sudo bao read nonsense",
        "X=1 bao read nonsense",
        "docker rm -fv $(docker ps -aq --filter label=nobody-sets-it)",
        "kubectl apply -n orders -f deploy/nonsense",
        "deploy/vault/README.md",
        "echo 'open",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
}
