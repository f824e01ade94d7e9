//! How many files this process may have open, and what follows from it.
//!
//! A transfer holds a handful of files and folders open. Where the system allows only few, fewer
//! files are fetched side by side, so that each of them finds what it needs. No file is opened here.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process has open besides its transfers: sockets, databases, the runtime, standard input
/// and output.
const BASE: u64 = 24;
/// What a file that is received holds open at most: its part, its records and those about to
/// replace them, its folder, and what is at its target.
const PER_FETCH: u64 = 5;

/// Lets the process open as many files as the system lets it allow itself.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many files to fetch side by side, at least one, where `most` are wanted.
pub(crate) fn fetches_at_once(most: usize) -> usize {
    fetches_within(getrlimit(Resource::Nofile).current, most)
}

fn fetches_within(limit: Option<u64>, most: usize) -> usize {
    let Some(limit) = limit else { return most };
    let room = limit.saturating_sub(BASE) / PER_FETCH;
    usize::try_from(room).map_or(most, |room| room.clamp(1, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_open_files_mean_few_fetches_and_never_none() {
        let expected = [
            (None, 16),
            (Some(1024), 16),
            (Some(64), 8),
            (Some(40), 3),
            (Some(3), 1),
        ];
        for (limit, count) in expected {
            assert_eq!(fetches_within(limit, 16), count, "{limit:?}");
        }
    }
}
