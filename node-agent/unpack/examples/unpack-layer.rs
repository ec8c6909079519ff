//! The unpacker process by itself, for the tests of the process: `unpack-layer` of the agent, or,
//! with `probe WHAT`, one forbidden act after having been confined for the directory `DIR`.

use std::process::ExitCode;

fn main() -> ExitCode {
    headstart_unpack::child_main()
}
