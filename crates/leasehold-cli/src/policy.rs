//! `leasehold policy`: the texts of `deploy/vault`, with the names of whoever asks.

use std::process::ExitCode;

use clap::ValueEnum;
use leasehold_vault::Settings;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::target::Target;
use crate::terminal::print_bytes;

const DYNAMIC: &str = include_str!("policy/dynamic-role.hcl");
const STATIC: &str = include_str!("policy/static-role.hcl");
const KV1: &str = include_str!("policy/kv1.hcl");
const KV2: &str = include_str!("policy/kv2.hcl");
const ROLE: &str = include_str!("policy/role.json");

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  leasehold policy --role orders-rw | bao policy write orders -
  leasehold policy --source kv2 --mount secret --secret-path orders/db --auth kubernetes
  leasehold policy --role orders-rw --role-definition --group orders_rw > orders-rw.json
  leasehold policy --role orders-rw --role-definition --group orders_rw --as commands | sh")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Where logins come from.
    #[arg(long, value_enum, default_value_t = Source::Dynamic)]
    source: Source,
    /// Path of the secret below the mount, for kv1 and kv2 [default: VAULT_SECRET_PATH].
    #[arg(long, value_name = "PATH")]
    secret_path: Option<String>,
    /// How the application logs in to Vault: what it does with its own token depends on that.
    #[arg(long, value_enum, default_value_t = Method::Approle)]
    auth: Method,
    /// The policy `default` is attached too: leave out the token's own paths, which it gives.
    #[arg(long)]
    with_default: bool,
    /// The namespace that it is written to. The paths in it are the same in each.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Print the database role instead, which makes logins members of --group.
    #[arg(long, requires = "group")]
    role_definition: bool,
    /// The Postgres group that has the rights.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Name of the database connection on the mount [default: the role up to its first dash].
    #[arg(long, value_name = "NAME")]
    db_name: Option<String>,
    /// How long a login lives if nobody renews it.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = vault_time)]
    ttl: String,
    /// How long a login lives at the most.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = vault_time)]
    max_ttl: String,
    /// The role as JSON, or as the command that writes it.
    #[arg(long, value_enum, default_value_t = Form::Json)]
    r#as: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    Dynamic,
    Static,
    Kv1,
    Kv2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Approle,
    Kubernetes,
    Jwt,
    Userpass,
    Cert,
    /// A token that somebody else made.
    Token,
    /// A token in a file that somebody else renews.
    TokenFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Json,
    Commands,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let settings = args.target.settings()?;
    let text = if args.role_definition { role(args, &settings)? } else { policy(args, &settings)? };
    print_bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn policy(args: &Args, settings: &Settings) -> Result<String, Failure> {
    let mount = |usual: &str| {
        let mount = args.target.mount.as_deref().or(settings.mount_path()).unwrap_or(usual);
        plain("mount", mount.trim_matches('/'))
    };
    let role = || plain("role", &args.target.role(settings)?);
    let secret = || {
        let given = args.secret_path.as_deref().or(settings.secret_path());
        let none = "no secret: give --secret-path PATH, or set VAULT_SECRET_PATH";
        plain("secret path", given.ok_or_else(|| Failure::usage(none))?.trim_matches('/'))
    };
    let text = match args.source {
        Source::Dynamic => {
            with_names(DYNAMIC, "orders-rw", &role()?, "database", &mount("database")?)
        }
        Source::Static => {
            with_names(STATIC, "orders-static", &role()?, "database", &mount("database")?)
        }
        Source::Kv1 => with_names(KV1, "orders/db", &secret()?, "kv", &mount("kv")?),
        Source::Kv2 => with_names(KV2, "orders/db", &secret()?, "secret", &mount("secret")?),
    };
    let (own, rest): (Vec<_>, Vec<_>) =
        blocks(&text).into_iter().partition(|block| block.is_about_the_token());
    let mut out = match &args.namespace {
        Some(name) => format!("# Written to the namespace {}.\n\n", plain("namespace", name)?),
        None => String::new(),
    };
    out += &rest.iter().map(Block::text).collect::<Vec<_>>().join("\n");
    let own = own.iter().filter(|block| !args.with_default && args.auth.needs(&block.path));
    let own: String = own.map(|block| block.rules.clone()).collect();
    if !own.is_empty() {
        out += "\n# The application's own token.\n";
        out += &own;
    }
    Ok(out)
}

impl Method {
    /// What is done with the token itself.
    fn needs(self, path: &str) -> bool {
        match path {
            "auth/token/lookup-self" => matches!(self, Self::Token | Self::TokenFile),
            "auth/token/renew-self" => self != Self::TokenFile,
            // One that was given is not ours to revoke.
            "auth/token/revoke-self" => !matches!(self, Self::Token | Self::TokenFile),
            _ => true,
        }
    }
}

/// The example's names replaced. Both stand in a comment, in quotes, and in the paths.
fn with_names(text: &str, from: &str, to: &str, from_mount: &str, mount: &str) -> String {
    let quoted = |name: &str| format!("\"{name}\"");
    text.lines()
        .map(|line| match line.strip_prefix(&format!("path \"{from_mount}/")) {
            Some(rest) => format!("path \"{mount}/{}\n", rest.replacen(from, to, 1)),
            None if line.starts_with('#') => {
                let line = line.replace(&quoted(from_mount), "\0");
                line.replace(&quoted(from), &quoted(to)).replace('\0', &quoted(mount)) + "\n"
            }
            None => format!("{line}\n"),
        })
        .collect()
}

/// A path and what is allowed on it, with the comment above.
struct Block {
    comment: String,
    path: String,
    rules: String,
}

impl Block {
    fn is_about_the_token(&self) -> bool {
        self.path.starts_with("auth/token/") || self.path == "sys/capabilities-self"
    }

    fn text(&self) -> String {
        format!("{}{}", self.comment, self.rules)
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut comment) = (Vec::<Block>::new(), String::new());
    let mut open = false;
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("path \"") {
            let path = path.split('"').next().unwrap_or_default().to_owned();
            blocks.push(Block {
                comment: std::mem::take(&mut comment),
                path,
                rules: String::new(),
            });
            open = true;
        }
        match blocks.last_mut() {
            Some(block) if open => {
                block.rules += line;
                block.rules.push('\n');
                open = line != "}";
            }
            _ if line.starts_with('#') => comment = format!("{comment}{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// A role of the database engine, in the order in which people read it.
#[derive(Deserialize, Serialize)]
struct Definition {
    db_name: String,
    default_ttl: String,
    max_ttl: String,
    creation_statements: Vec<String>,
    revocation_statements: Vec<String>,
}

fn role(args: &Args, settings: &Settings) -> Result<String, Failure> {
    let name = plain("role", &args.target.role(settings)?)?;
    let mount = plain("mount", args.target.mount(settings).trim_matches('/'))?;
    let group = identifier(args.group.as_deref().unwrap_or_default())?;
    let db_name = match &args.db_name {
        Some(db_name) => plain("db-name", db_name)?,
        None => name.split('-').next().unwrap_or(&name).to_owned(),
    };
    let mut role: Definition =
        serde_json::from_str(ROLE).map_err(|e| Failure::of("reading the role to go by", &e))?;
    role.db_name = db_name;
    (role.default_ttl, role.max_ttl) = (args.ttl.clone(), args.max_ttl.clone());
    for statement in &mut role.creation_statements {
        *statement = statement.replace("IN ROLE orders_rw", &format!("IN ROLE {group}"));
    }
    let json = serde_json::to_string_pretty(&role)
        .map_err(|e| Failure::of("writing the role as JSON", &e))?;
    Ok(match args.r#as {
        Form::Json => format!("{json}\n"),
        Form::Commands => {
            let namespace = match &args.namespace {
                Some(name) => format!("-namespace={} ", plain("namespace", name)?),
                None => String::new(),
            };
            format!("bao write {namespace}{mount}/roles/{name} - <<'ROLE'\n{json}\nROLE\n")
        }
    })
}

/// What may stand in a policy's path and in a shell's word as it is. No wildcards: they would allow
/// more than was asked for.
fn plain(what: &str, text: &str) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/-_.:@".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err(Failure::usage(format!(
            "the {what} {text:?} is empty or holds characters that no policy should: use letters, \
             digits and / - _ . : @"
        )));
    }
    Ok(text.to_owned())
}

/// A name as it stands in SQL.
fn identifier(name: &str) -> Result<String, Failure> {
    if name.is_empty() || name.chars().any(|c| c.is_control() || "'{}".contains(c)) {
        return Err(Failure::usage(format!("--group {name:?} is no name for a group")));
    }
    // Always: a bare `user` is a word of SQL.
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// A time that Vault reads as we do.
fn vault_time(text: &str) -> Result<String, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if time.subsec_nanos() > 0 || time.is_zero() {
        return Err("has to be whole seconds, and above 0".to_owned());
    }
    let seconds = time.as_secs();
    Ok(match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    })
}
