//! Settings from a file.

use std::path::Path;

use config::{FileFormat, Source, Value as FileValue, ValueKind};
use zeroize::Zeroizing;

use super::ConfigError;
use super::values::Values;

/// The table of the file that is ours; the rest may be the application's.
const SECTION: &str = "vault";

/// Adds what stands in the section `vault` of a file.
pub(super) fn add(values: &mut Values, path: &Path) -> Result<(), ConfigError> {
    let file = path.display().to_string();
    let problem = |problem: String| ConfigError::new(file.clone(), problem);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let format = match extension.to_ascii_lowercase().as_str() {
        "toml" => FileFormat::Toml,
        "yaml" | "yml" => FileFormat::Yaml,
        "json" => FileFormat::Json,
        "ini" => FileFormat::Ini,
        _ => {
            let formats = "has none of the endings .toml, .yaml, .yml, .json and .ini";
            return Err(problem(formats.to_owned()));
        }
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) => return Err(problem(format!("can't be read: {e}"))),
    };
    add_text(values, &file, format, extension, &text)
}

/// The same of a file that was read already.
fn add_text(
    values: &mut Values,
    file: &str,
    format: FileFormat,
    extension: &str,
    text: &str,
) -> Result<(), ConfigError> {
    let problem = |problem: String| ConfigError::new(file.to_owned(), problem);
    let tree = config::File::from_str(text, format).collect().map_err(|e| {
        // The parsers' own messages show the line, with whatever is in it.
        let place = line_in(&e.to_string()).map(|n| format!(" near line {n}")).unwrap_or_default();
        problem(format!("is not well-formed {extension}{place}"))
    })?;
    for (name, value) in tree {
        // INI has no tables in tables: `[vault.kubernetes]` is one name there.
        let mut names: Vec<_> = name.split('.').map(str::to_owned).collect();
        if names[0].eq_ignore_ascii_case(SECTION) {
            names.remove(0);
            flatten(values, file, &mut names, value)?;
        }
    }
    Ok(())
}

fn flatten(
    values: &mut Values,
    file: &str,
    names: &mut Vec<String>,
    value: FileValue,
) -> Result<(), ConfigError> {
    let text = match value.kind {
        ValueKind::Table(table) => {
            for (name, value) in table {
                names.push(name);
                flatten(values, file, names, value)?;
                names.pop();
            }
            return Ok(());
        }
        ValueKind::Nil => return Ok(()),
        ValueKind::String(text) => text,
        ValueKind::Boolean(value) => value.to_string(),
        ValueKind::I64(value) => value.to_string(),
        ValueKind::I128(value) => value.to_string(),
        ValueKind::U64(value) => value.to_string(),
        ValueKind::U128(value) => value.to_string(),
        ValueKind::Float(value) => value.to_string(),
        ValueKind::Array(_) => {
            let name = format!("{SECTION}.{}", names.join("."));
            return Err(ConfigError::new(name, format!("in {file} is a list: give one value")));
        }
    };
    values.add_from_file(file, names, text)
}

/// Each kind of file, by its number.
#[cfg(feature = "fuzzing")]
pub(super) fn add_any(values: &mut Values, kind: u8, text: &str) -> Result<(), ConfigError> {
    const KINDS: [(FileFormat, &str); 4] = [
        (FileFormat::Toml, "toml"),
        (FileFormat::Yaml, "yaml"),
        (FileFormat::Json, "json"),
        (FileFormat::Ini, "ini"),
    ];
    let (format, extension) = KINDS[usize::from(kind) % KINDS.len()];
    add_text(values, "app.conf", format, extension, text)
}

/// The line that a parser's message names: "at line 3, column 5", or "3:5 ..." for INI.
fn line_in(message: &str) -> Option<u32> {
    let digits = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    match message.split_once("line ") {
        Some((_, rest)) => digits(rest),
        None => digits(message),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
