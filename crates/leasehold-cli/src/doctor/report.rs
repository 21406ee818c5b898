//! What was found, for people and for programs.

use serde::Serialize;

use super::steps::Step;
use crate::failure::Failure;
use crate::terminal::{BAD, CAREFUL, FAINT, GOOD, print_bytes, print_styled};

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Warn,
    Fail,
    Skipped,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) status: Status,
    pub(super) detail: String,
    /// What to do. Always there for `Warn` and `Fail`.
    pub(super) mend: Option<String>,
    /// Steps that need this one can't be done.
    pub(super) blocks: bool,
    /// The step that failed, for one that was not run.
    pub(super) because: Option<Step>,
}

impl Finding {
    pub(super) fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into(), mend: None, blocks: false, because: None }
    }

    pub(super) fn warn(detail: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { status: Status::Warn, detail: detail.into(), mend, blocks: false, because: None }
    }

    pub(super) fn fail(detail: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { status: Status::Fail, detail: detail.into(), mend, blocks: true, because: None }
    }

    /// Wrong, and yet what comes after it can be looked at.
    pub(super) fn fail_and_go_on(detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { blocks: false, ..Self::fail(detail, mend) }
    }

    /// There is nothing to look at, which hinders nothing.
    pub(super) fn unknown(detail: impl Into<String>) -> Self {
        Self {
            status: Status::Skipped,
            detail: detail.into(),
            mend: None,
            blocks: false,
            because: None,
        }
    }

    /// Something that it needs has failed.
    pub(super) fn blocked_by(step: Step) -> Self {
        let why = Self::unknown(format!("not run: `{}` failed", step.id()));
        Self { blocks: true, because: Some(step), ..why }
    }

    pub(super) fn stopped() -> Self {
        Self { blocks: true, ..Self::unknown("not run: it was told to stop") }
    }
}

/// One line of the JSON output. Its fields are documented in `docs/doctor.md`, and stay.
#[derive(Serialize)]
struct Line<'a> {
    id: &'static str,
    status: Status,
    what: &'static str,
    detail: &'a str,
    mend: Option<&'a str>,
}

#[derive(Serialize)]
struct Whole<'a> {
    /// Rises when a field changes its meaning or goes.
    version: u32,
    status: Status,
    steps: Vec<Line<'a>>,
}

/// All findings, in the order of the steps.
pub(super) struct Report {
    json: bool,
    found: Vec<(Step, Finding)>,
    /// What kept a line from being printed. The steps go on all the same: some give back.
    unprinted: Option<Failure>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, found: Vec::new(), unprinted: None }
    }

    pub(super) fn add(&mut self, step: Step, finding: Finding) {
        if !self.json
            && self.unprinted.is_none()
            && let Err(e) = print_styled(&line(step, &finding))
        {
            self.unprinted = Some(e);
        }
        self.found.push((step, finding));
    }

    pub(super) fn of(&self, step: Step) -> Option<&Finding> {
        self.found.iter().find(|(s, _)| *s == step).map(|(_, finding)| finding)
    }

    fn count(&self, status: Status) -> usize {
        self.found.iter().filter(|(_, finding)| finding.status == status).count()
    }

    pub(super) fn is_well(&self) -> bool {
        self.count(Status::Fail) == 0
    }

    /// Prints what is left to be printed.
    pub(super) fn finish(&mut self, stopped: bool) -> Result<(), Failure> {
        if let Some(failure) = self.unprinted.take() {
            return Err(failure);
        }
        let (failed, warned) = (self.count(Status::Fail), self.count(Status::Warn));
        if !self.json {
            let verdict = match (failed, warned) {
                (0, _) if stopped => format!("{CAREFUL}Stopped before the end.{CAREFUL:#}\n"),
                (0, 0) => format!("{GOOD}All is well.{GOOD:#}\n"),
                (0, n) => format!("{CAREFUL}It works, with {n} to look at.{CAREFUL:#}\n"),
                (n, _) => format!("{BAD}{n} failed.{BAD:#} Mend the first one first.\n"),
            };
            return print_styled(&verdict);
        }
        let status = match (failed, warned) {
            (0, _) if stopped => Status::Skipped,
            (0, 0) => Status::Ok,
            (0, _) => Status::Warn,
            _ => Status::Fail,
        };
        let steps = self.found.iter().map(|(step, finding)| Line {
            id: step.id(),
            status: finding.status,
            what: step.what(),
            detail: &finding.detail,
            mend: finding.mend.as_deref(),
        });
        print_json(&Whole { version: 1, status, steps: steps.collect() })
    }
}

/// One object, readable by people too.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Failure::of("writing the report as JSON", &e))?;
    text.push(b'\n');
    print_bytes(&text)
}

fn line(step: Step, finding: &Finding) -> String {
    let (style, mark) = match finding.status {
        Status::Ok => (GOOD, "✓ ok  "),
        Status::Warn => (CAREFUL, "! warn"),
        Status::Fail => (BAD, "✗ FAIL"),
        Status::Skipped => (FAINT, "- skip"),
    };
    let (id, what) = (step.id(), step.what());
    let detail = plain(&finding.detail);
    if finding.status == Status::Skipped {
        return format!("{style}{mark} {id:<17}{detail}{style:#}\n");
    }
    let mut text = format!("{style}{mark}{style:#} {id:<17}{what}\n");
    for line in detail.lines() {
        text += &format!("{:24}{FAINT}{line}{FAINT:#}\n", "");
    }
    for (i, line) in finding.mend.as_deref().map(plain).unwrap_or_default().lines().enumerate() {
        let name = if i == 0 { "mend: " } else { "      " };
        text += &format!("{:24}{name}{line}\n", "");
    }
    text
}

/// Without what could do something to a terminal: some of it comes from servers.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_does_nothing_to_the_terminal() {
        let finding = Finding::fail("a\u{1b}[2Jb\rc", "one\ntwo");
        let text = line(Step::Issue, &finding);
        assert!(text.contains("a [2Jb c"), "{text:?}");
        assert!(text.ends_with("mend: one\n                              two\n"), "{text:?}");
    }
}
