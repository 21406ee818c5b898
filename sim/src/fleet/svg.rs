//! The fleets as a picture: one panel each, requests per second over time on a scale of powers of
//! ten. By hand, since it is two kinds of shape and some text. The background is its own, so that
//! it is read on light and on dark pages.

use std::fmt::Write;

use super::measure::Outcome;
use super::{Plan, Rules};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 130.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 56.0;
const GAP: f64 = 34.0;
/// Powers of ten of requests per second, from the bottom to the top of a panel.
const DECADES: (f64, f64) = (-1.0, 4.0);
/// What one bar stands for.
const BAR: usize = 30;

const PAPER: &str = "#ffffff";
const INK: &str = "#1f2933";
const FAINT: &str = "#d5dbe1";
const OUTAGE: &str = "#f8dcd6";
const OURS: &str = "#1565c0";
const THEIRS: &str = "#8a5a00";

/// The picture, as the text of an SVG.
#[must_use]
pub fn draw(plan: &Plan, outcomes: &[Outcome]) -> String {
    let height = TOP + outcomes.len() as f64 * (PANEL + GAP) + 18.0;
    let seconds = (plan.outage_at + plan.outage + plan.after).as_secs_f64();
    let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - RIGHT);
    let mut svg = String::new();
    let processes = plan.processes;
    // Writing to a string can't fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{INK}\" role=\"img\" \
         aria-label=\"Requests per second at Vault of {processes} processes, through an outage\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"{PAPER}\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">Requests per second at \
         Vault, {processes} processes</text>\n<text x=\"{LEFT}\" y=\"40\">most in 10 s of each {BAR} s, \
         refused ones included; the outage is shaded; by hours, each step is ten times as much</text>\n"
    );
    for (n, outcome) in outcomes.iter().enumerate() {
        let top = TOP + n as f64 * (PANEL + GAP) + 18.0;
        panel(&mut svg, plan, outcome, top, &x);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, plan: &Plan, outcome: &Outcome, top: f64, x: &impl Fn(f64) -> f64) {
    let (low, high) = DECADES;
    let bottom = top + PANEL;
    let y = |rate: f64| {
        let share = (rate.max(1e-9).log10() - low) / (high - low);
        bottom - share.clamp(0.0, 1.0) * PANEL
    };
    let (from, to) = (plan.outage_at.as_secs_f64(), (plan.outage_at + plan.outage).as_secs_f64());
    let _ = write!(
        svg,
        "<rect x=\"{:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"{OUTAGE}\"/>\n\
         <text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"600\">{}</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}/s before, {:.0}/s at worst after: \
         {:.1} times</text>\n",
        x(from),
        x(to) - x(from),
        top - 6.0,
        outcome.rules.name(),
        WIDTH - RIGHT,
        top - 6.0,
        outcome.mean,
        outcome.burst,
        outcome.burst_ratio(),
    );
    for decade in low as i32..=high as i32 {
        let at = y(10f64.powi(decade));
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"{FAINT}\" stroke-width=\"0.7\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"10\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 3.5,
            10f64.powi(decade),
        );
    }
    for hour in 0..=(outcome.requests.len() / 3600) {
        let at = x(hour as f64 * 3600.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\">{hour} h</text>",
            bottom + 12.0,
        );
    }
    let colour = if outcome.rules == Rules::Leasehold { OURS } else { THEIRS };
    let _ = write!(svg, "<path fill=\"{colour}\" d=\"");
    for (n, bar) in outcome.requests.chunks(BAR).enumerate() {
        let most = bar.chunks(10).map(|ten| ten.iter().sum::<u32>()).max().unwrap_or_default();
        if most > 0 {
            let (left, right) = (x((n * BAR) as f64), x(((n + 1) * BAR) as f64));
            let at = y(f64::from(most) / 10.0);
            let _ = write!(svg, "M{left:.1} {bottom:.1}V{at:.1}H{right:.1}V{bottom:.1}Z");
        }
    }
    svg.push_str("\"/>\n");
}
