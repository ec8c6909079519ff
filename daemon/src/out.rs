//! What commands print on standard output.

use std::io::{ErrorKind, Write as _};

/// Prints text as it is, and says whether somebody may still read more: `headstart crd | head` has read
/// enough, which is no error.
pub(crate) fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = &printed
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("error: cannot print: {error}");
    }
    printed.is_ok()
}
