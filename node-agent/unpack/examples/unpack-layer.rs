//! The unpacker process and nothing else, for the tests of the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    headstart_unpack::child_main()
}
