//! A server or peer in the background: its events, its log, its end.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{DEADLINE, Ended, eventually};

/// A process that prints JSON events; killed by its id when it is dropped.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    events: Receiver<Value>,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with what it logs in `log`, which is begun anew.
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let log_file = std::fs::File::create(&log).expect("create a log file");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .expect("start a daemon");
        let stdout = child.stdout.take().expect("piped above");
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            name: name.to_owned(),
            child,
            events,
            log,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the next event of that name; earlier ones of other names are passed over.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |event| event["event"] == name)
    }

    /// Waits for the next event that `is_it` accepts.
    #[track_caller]
    pub(crate) fn event_where(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if is_it(&event) => return event,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not say {what} in time: {}", self.name, self.log())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended before it said {what}: {}", self.name, self.log())
                }
            }
        }
    }

    /// Its standard input, where that was piped.
    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("standard input is piped")
    }

    /// Ends its standard input.
    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process id"), signal).expect("signal a daemon");
    }

    /// Waits for its end and returns its exit code; -1 when a signal ended it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let name = format!("{} ends", self.name);
        let mut code = None;
        eventually(&name, || {
            let status = self.child.try_wait().expect("ask for a child's end");
            code = status.map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.expect("found above")
    }

    /// Whether it has ended by now.
    pub(crate) fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("ask for a child's end").is_some()
    }

    /// Asks it to close, waits, and returns its exit code.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it on the spot, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill a daemon");
        self.child.wait().expect("wait for a daemon");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left to kill where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a child whose output is piped; kills it after the deadline.
#[track_caller]
pub(super) fn wait_with_output(mut child: Child, what: &str) -> Ended {
    let stdout = collect(child.stdout.take().expect("piped by the caller"));
    let stderr = collect(child.stderr.take().expect("piped by the caller"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("ask for a child's end") {
            break status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().expect("kill a command");
            child.wait().expect("wait for a command");
            panic!("{what} does not end");
        }
        std::thread::sleep(super::LOOK_INTERVAL);
    };
    Ended {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().expect("the reader ends with its pipe"),
        stderr: stderr.join().expect("the reader ends with its pipe"),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a broken pipe is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
