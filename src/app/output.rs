//! What commands print on standard output.

use std::io::{self, ErrorKind, Write};

use super::StartError;

/// Prints, up to the last byte: what is left in a buffer would be lost without a word.
pub(super) fn print(text: &str) -> Result<(), StartError> {
    write(text).map_err(StartError::Output)
}

/// Prints what is done, in one line; where that fails it is told as the reason, as it is done in any case.
pub(super) fn print_done(done: &str) -> Result<(), StartError> {
    let untold = |source| StartError::Untold { done: done.to_owned(), source };
    write(&format!("{done}\n")).map_err(untold)
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // As with `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}
