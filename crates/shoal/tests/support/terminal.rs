//! A person at a terminal: a pseudo-terminal with a process on it, keys and what is on the screen.

use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{DEADLINE, eventually};

/// Up, as a terminal sends it.
pub(crate) const ARROW_UP: &str = "\u{1b}[A";
/// Ctrl-C.
pub(crate) const CTRL_C: &str = "\u{3}";
/// Ctrl-D.
pub(crate) const CTRL_D: &str = "\u{4}";

/// A process whose controlling terminal is this one; killed by its id when it is dropped.
pub(crate) struct Terminal {
    child: Child,
    keyboard: std::fs::File,
    screen: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Terminal {
    /// Starts `command` as the session leader on a new terminal of 120 columns.
    pub(crate) fn start(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("own the terminal");
        unlockpt(&master).expect("unlock the terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = open(&name, flags, Mode::empty()).expect("open the terminal");
        let size = Winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).expect("give the terminal a size");
        let child = in_session(command)
            .stdin(slave.try_clone().expect("another handle"))
            .stdout(slave.try_clone().expect("another handle"))
            .stderr(slave)
            .spawn()
            .expect("start a process on a terminal");
        let keyboard = std::fs::File::from(master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let mut reader = keyboard.try_clone().expect("another handle");
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The other side's end is an error here.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown
                    .lock()
                    .expect("no panic while it is held")
                    .extend_from_slice(&bytes[..count]);
            }
        });
        Self {
            child,
            keyboard,
            screen,
            seen: 0,
        }
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
    }

    /// Types a line and presses Enter.
    pub(crate) fn enter(&mut self, line: &str) {
        self.press(&format!("{line}\r"));
    }

    /// Waits until `text` is shown after what was waited for before; returns what is between, as
    /// it was sent but for escape sequences.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let all = self.everything();
            let unseen = &all[self.seen.min(all.len())..];
            if let Some(at) = unseen.find(text) {
                let end = at + text.len();
                self.seen += end;
                return unseen[..end].to_owned();
            }
            assert!(
                started.elapsed() < DEADLINE,
                "{text:?} is not shown, but {unseen:?}"
            );
            std::thread::sleep(super::LOOK_INTERVAL);
        }
    }

    /// Types a line, waits for `text` and for the next prompt.
    #[track_caller]
    pub(crate) fn asks(&mut self, line: &str, text: &str) -> String {
        self.enter(line);
        let shown = self.shows(text);
        shown + &self.shows("shoal> ")
    }

    /// Everything that was shown so far, without escape sequences.
    pub(crate) fn everything(&self) -> String {
        let bytes = self.raw();
        // A sequence that has not arrived whole is left for the next look.
        let whole = bytes.iter().rposition(|byte| *byte == 0x1b);
        let whole = whole.filter(|at| bytes.len() - at < 8);
        let text = String::from_utf8_lossy(&bytes[..whole.unwrap_or(bytes.len())]).into_owned();
        console::strip_ansi_codes(&text).into_owned()
    }

    /// Everything, byte for byte.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.screen
            .lock()
            .expect("no panic while it is held")
            .clone()
    }

    /// Waits for its end and returns its exit code; -1 when a signal ended it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let mut code = None;
        eventually("the process on the terminal ends", || {
            let status = self.child.try_wait().expect("ask for a child's end");
            code = status.map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.expect("found above")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing is left to kill where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command, which first makes its standard input its controlling terminal: Ctrl-C is a
/// signal only to whoever has one.
fn in_session(command: &Command) -> Command {
    let mut setsid = Command::new("setsid");
    setsid.arg("--ctty").arg(command.get_program());
    setsid.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => setsid.env(name, value),
            None => setsid.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        setsid.current_dir(folder);
    }
    setsid.env("TERM", "xterm-256color");
    setsid.env_remove("NO_COLOR");
    setsid
}
