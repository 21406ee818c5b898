//! A terminal, redrawn in place and given back as it was.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use anstyle::Style;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, event, execute, queue, terminal};
use leasehold::{Event, HealthState, Severity};
use tokio::sync::mpsc;

use super::Now;
use crate::failure::Failure;
use crate::log;
use crate::terminal::{BAD, CAREFUL, FAINT, GOOD};

/// As many as the tallest terminal shows.
const KEPT: usize = 200;
const BAR: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Rotate,
    Quit,
}

pub(super) struct Screen {
    keys: mpsc::UnboundedReceiver<Key>,
    events: VecDeque<(Style, String)>,
    colours: bool,
    /// What the bar is full at: the most that was left on the lease of this generation.
    full: (u64, Duration),
}

impl Screen {
    pub(super) fn open() -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::of("preparing the terminal", &e);
        // A panic's message would be lost on the other screen.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                usual(panic);
            }));
        });
        log::hold();
        let opened = terminal::enable_raw_mode().map_err(failed);
        opened.inspect_err(|_| log::let_go())?;
        let (pressed, keys) = mpsc::unbounded_channel();
        // From here on its end gives the terminal back.
        let colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let screen = Self { keys, events: VecDeque::new(), colours, full: Default::default() };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide).map_err(failed)?;
        // Lives as long as the process does.
        thread::spawn(move || {
            while let Ok(event) = event::read() {
                if let Some(key) = key(&event)
                    && pressed.send(key).is_err()
                {
                    return;
                }
            }
        });
        Ok(screen)
    }

    /// The next key that means something. Cancel safe.
    pub(super) async fn key(&mut self) -> Key {
        match self.keys.recv().await {
            Some(key) => key,
            // The terminal can't be read any more: signals still end us.
            None => std::future::pending().await,
        }
    }

    pub(super) fn event(&mut self, event: &Event, now: &Now<'_>) {
        let style = match event.severity() {
            Severity::Debug => FAINT,
            Severity::Warn => CAREFUL,
            Severity::Error => BAD,
            _ => Style::new(),
        };
        let line = format!("{:>9.1}s  {event}", now.since_start.as_secs_f64());
        self.events.push_back((style, line));
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
        self.draw(now);
    }

    /// A terminal that can't be written to is as good as one that nobody looks at.
    pub(super) fn draw(&mut self, now: &Now<'_>) {
        let _ = self.try_draw(now);
    }

    fn try_draw(&mut self, now: &Now<'_>) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        let (width, height) = (usize::from(width), usize::from(height));
        let mut lines = self.head(now);
        let room = height.saturating_sub(lines.len());
        let skip = self.events.len().saturating_sub(room);
        lines.extend(self.events.iter().skip(skip).cloned());
        let mut out = io::stdout().lock();
        for (row, (style, text)) in lines.iter().take(height).enumerate() {
            queue!(out, cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)))?;
            let text: String = text.chars().take(width).collect();
            match self.colours {
                true => write!(out, "{style}{text}{style:#}")?,
                false => write!(out, "{text}")?,
            }
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < height {
            queue!(out, cursor::MoveToNextLine(1), Clear(ClearType::FromCursorDown))?;
        }
        out.flush()
    }

    fn head(&mut self, now: &Now<'_>) -> Vec<(Style, String)> {
        let (health, token) = (&now.health, &now.token);
        let plain = Style::new();
        let (state, style) = match health.state {
            HealthState::Ready => ("ready", GOOD),
            HealthState::Degraded => ("degraded", CAREFUL),
            HealthState::Expired => ("expired", BAD),
            _ => ("stopped", BAD),
        };
        let mut lines = vec![
            (FAINT, format!("leasehold watch  {}    r rotates, q ends", now.source)),
            (plain, String::new()),
            (
                style,
                format!(
                    "  state     {state}, generation {}, {}",
                    health.generation, health.username
                ),
            ),
        ];
        lines.push((plain, self.lease(now)));
        let ends = token.remaining.map_or_else(|| "no end".to_owned(), clock);
        let more = match (&token.lost, token.renewing) {
            (Some(why), _) => format!("lost: {why}"),
            (None, true) => "renewed before it ends".to_owned(),
            (None, false) => "not renewed".to_owned(),
        };
        lines.push((plain, format!("  token     {ends}  {more}, login {}", token.login)));
        let (rotations, renewals) = (health.rotations, health.renewals);
        lines.push((plain, format!("  so far    {rotations} rotations, {renewals} renewals")));
        if let Some(q) = &now.queries {
            let (size, idle) = health.pools.iter().fold((0, 0), |(size, idle), pool| {
                (size + pool.counts.size, idle + pool.counts.idle)
            });
            let text = format!(
                "  pool      {size} connections, {idle} idle; {} queries, {} failed",
                q.ok + q.failed,
                q.failed
            );
            lines.push((if q.failed > 0 { BAD } else { plain }, text));
        }
        for drain in &health.draining {
            let left = clock(drain.deadline_in);
            let text =
                format!("  draining  generation {}, {left} to its deadline", drain.generation);
            lines.push((CAREFUL, text));
        }
        if let Some(error) = &health.last_error {
            lines.push((
                CAREFUL,
                format!("  last error {} ago: {}", clock(error.ago), error.message),
            ));
        }
        lines.push((plain, String::new()));
        lines
    }

    fn lease(&mut self, now: &Now<'_>) -> String {
        let Some(left) = now.health.expires_in else {
            return "  lease     no end".to_owned();
        };
        let (generation, full) = self.full;
        let full = if generation == now.health.generation { full.max(left) } else { left };
        self.full = (now.health.generation, full);
        let share = left.as_secs_f64() / full.as_secs_f64().max(0.001);
        let filled = ((share * BAR as f64).round() as usize).min(BAR);
        let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR - filled));
        let next = match now.health.rotates_in {
            Some(next) => format!("rotates in {}", clock(next)),
            None => "renewed".to_owned(),
        };
        format!("  lease     {}  [{bar}]  {next}", clock(left))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Twice does no harm.
fn restore() {
    // There is nobody to tell.
    let _ = terminal::disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    log::let_go();
}

fn key(event: &event::Event) -> Option<Key> {
    let event::Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event
    else {
        return None;
    };
    match (code, modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Char('r'), false) => Some(Key::Rotate),
        (KeyCode::Char('q') | KeyCode::Esc, false) => Some(Key::Quit),
        (KeyCode::Char('c' | 'd' | '\\'), true) => Some(Key::Quit),
        _ => None,
    }
}

/// `4.2s`, `3:07`, `1:02:03`.
fn clock(left: Duration) -> String {
    match left.as_secs() {
        0..60 => format!("{:.1}s", left.as_secs_f64()),
        s @ 60..3600 => format!("{}:{:02}", s / 60, s % 60),
        s => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;

    use super::*;

    #[test]
    fn times_are_short_and_exact_near_the_end() {
        let all = [4200, 59_940, 187_000, 3_723_000].map(|ms| clock(Duration::from_millis(ms)));
        assert_eq!(all, ["4.2s", "59.9s", "3:07", "1:02:03"]);
    }

    /// In the process on the terminal.
    const PANICS: &str = "LEASEHOLD_TEST_SCREEN_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::open().unwrap();
            assert!(terminal::is_raw_mode_enabled().unwrap());
            panic!("on the screen");
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&*name, flags, Mode::empty()).unwrap();
        let before = format!("{:?}", tcgetattr(&ours).unwrap().local_modes);
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let this = "watch::screen::tests::a_panic_gives_the_terminal_back";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture", "--test-threads=1"])
            .env(PANICS, "1")
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        drop(theirs);
        let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
        // A terminal whose last user is gone is an error to read from.
        let mut from = std::fs::File::from(ours.try_clone().unwrap());
        while let Ok(n @ 1..) = from.read(&mut piece) {
            shown.extend(&piece[..n]);
        }
        assert!(!child.wait().unwrap().success());
        let shown = String::from_utf8_lossy(&shown);
        let (_, behind) = shown.split_once("\x1b[?1049h").expect("the screen was up");
        // The message is where it is read, and not on the screen that goes.
        let (_, behind) = behind.split_once("\x1b[?1049l").expect("the screen went");
        assert!(behind.contains("on the screen"), "{shown:?}");
        assert_eq!(format!("{:?}", tcgetattr(&ours).unwrap().local_modes), before);
    }
}
