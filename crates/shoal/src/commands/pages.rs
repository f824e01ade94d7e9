//! `shoal completions` and `shoal man`: what is generated from the command line's definition.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::args::Arguments;
use crate::exit::Failure;
use crate::output::Output;

/// Prints the completion script for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell, output: &Output) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "shoal", &mut script);
    output.raw(&script);
}

/// Prints the main page, or writes one page per command into `dir`.
pub(crate) fn man(dir: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    match dir {
        Some(dir) => write_pages(&dir),
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Arguments::command()).render(&mut page);
            rendered.map_err(|error| Failure::local(error.to_string()))?;
            output.raw(&page);
            Ok(())
        }
    }
}

fn write_pages(dir: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), dir));
    written.map_err(|error| {
        Failure::local(format!(
            "cannot write man pages to {}: {error}",
            dir.display()
        ))
    })
}
