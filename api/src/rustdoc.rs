//! rustdoc, allowed to write JSON. Cargo runs this program in its place (`RUSTDOC`), so that only
//! rustdoc itself is told of it: with the variable set for all of cargo, every dependency would be
//! built anew.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set for the program when it is to be rustdoc.
const ROLE: &str = "LEASEHOLD_API_IS_RUSTDOC";

/// Lets `cargo` take this program for rustdoc.
pub fn stand_in(cargo: &mut Command) -> std::io::Result<()> {
    cargo.env("RUSTDOC", std::env::current_exe()?).env(ROLE, "1");
    Ok(())
}

pub fn is_wanted() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// Becomes rustdoc.
pub fn run() -> Box<dyn Error> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let mut rustdoc = Command::new("rustdoc");
    rustdoc.args(&arguments).env("RUSTC_BOOTSTRAP", "1");
    // Cargo also asks it for its version, which takes no such flags.
    if arguments.iter().any(|a| a == "--crate-name") {
        rustdoc.args(["-Z", "unstable-options", "--output-format", "json"]);
    }
    rustdoc.exec().into()
}
