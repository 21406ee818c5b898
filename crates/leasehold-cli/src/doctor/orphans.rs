//! `leasehold doctor --orphans`.

use std::process::ExitCode;

use super::Args;
use crate::failure::Failure;

pub(super) async fn run(_: &Args) -> Result<ExitCode, Failure> {
    Err(Failure::usage("not yet"))
}
