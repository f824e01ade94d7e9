//! Lines that a person types, or that a pipe brings, on standard input.

use tokio::sync::mpsc;

/// Lines that may wait to be looked at.
const LINES_WAITING: usize = 8;

/// The lines of standard input from now on. They are read on a thread of its own, because a read
/// cannot be taken back and must not keep the process from ending.
pub(crate) fn typed_lines() -> mpsc::Receiver<String> {
    let (typed, lines) = mpsc::channel(LINES_WAITING);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
