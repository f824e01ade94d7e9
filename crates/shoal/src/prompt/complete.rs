//! What Tab completes: commands first, then names of peers and files.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// How long the server may take to name its peers before the prompt comes without them.
pub(super) const LEARN_DEADLINE: Duration = Duration::from_millis(300);
/// Own files that are offered: a person completes by typing more, not by scrolling.
pub(super) const FILES_MAX: usize = 1000;

const COMMANDS: [&str; 12] = [
    "announce",
    "files",
    "get",
    "help",
    "limit",
    "list",
    "peers",
    "quit",
    "request",
    "scan",
    "status",
    "transfers",
];

/// Names that are known at the moment. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<Vec<String>>>);

impl Names {
    /// Replaces what is known.
    pub(super) fn learn(
        &self,
        peers: impl Iterator<Item = String>,
        files: impl Iterator<Item = String>,
    ) {
        let names = peers.chain(files).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn starting_with(&self, start: &str) -> Vec<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .iter()
            .filter(|name| name.starts_with(start))
            .cloned()
            .collect()
    }
}

/// Completes the word before the cursor.
pub(super) struct Completion {
    names: Names,
}

impl Completion {
    pub(super) fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let start = typed
            .rfind(char::is_whitespace)
            .map_or(0, |space| space + 1);
        let word = &typed[start..];
        let candidates = if typed[..start].trim().is_empty() {
            let commands = COMMANDS.iter().filter(|command| command.starts_with(word));
            commands.map(|command| format!("{command} ")).collect()
        } else {
            self.names.starting_with(word)
        };
        Ok((start, candidates))
    }
}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;

    #[test]
    fn commands_come_first_and_names_after_them() {
        let names = Names::default();
        names.learn(
            ["anna:".to_owned()].into_iter(),
            ["a.txt".to_owned()].into_iter(),
        );
        let completion = Completion::new(names);
        let history = DefaultHistory::new();
        let complete = |line: &str| {
            completion
                .complete(line, line.len(), &Context::new(&history))
                .unwrap()
        };
        assert_eq!(complete("re"), (0, vec!["request ".to_owned()]));
        assert_eq!(
            complete("get a"),
            (4, vec!["anna:".to_owned(), "a.txt".to_owned()])
        );
        assert_eq!(complete("get zz").1, Vec::<String>::new());
    }
}
