//! A terminal of our own, and what it shows.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::program::Program;

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// Our side of it.
pub(crate) struct Terminal(File);

impl Terminal {
    /// A program with all its streams on a new terminal.
    pub(crate) fn start(command: &mut Command) -> (Self, Program) {
        let (ours, child) = Self::open(command);
        let program = Program::on(child, ours.0.try_clone().unwrap());
        (ours, program)
    }

    /// The same, with nobody who reads what it says: dropping our side closes it.
    pub(crate) fn open(command: &mut Command) -> (Self, Child) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&*name, flags, Mode::empty()).unwrap();
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        command.env("TERM", "xterm-256color");
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        // What the command holds of it would keep it open when the program has gone.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (Self(File::from(ours)), child)
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.0.write_all(keys.as_bytes()).unwrap();
    }

    /// How it is set: raw or not, and all else.
    pub(crate) fn modes(&self) -> String {
        let modes = tcgetattr(&self.0).unwrap();
        format!("{:?} {:?} {:?}", modes.local_modes, modes.input_modes, modes.output_modes)
    }
}

/// What it shows after these bytes.
pub(crate) fn screen(bytes: &[u8]) -> vt100::Parser {
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    parser.process(bytes);
    parser
}
