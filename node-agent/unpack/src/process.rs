//! The unpacker as a process: what it reads and says, and the other end of that.
//!
//! Standard input carries four bytes of length (big-endian), the request as JSON, then the layer;
//! standard output carries the result as JSON, once. The process has no environment and no other
//! descriptor. It ends by itself when its input ends, and its input ends when its parent does, so
//! nothing is left over; a death signal would be tied to the parent's *thread* and is not used.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Death, UnpackError};
use crate::{Request, Unpacked, apply, confine};

/// Most bytes of a request.
const REQUEST: u32 = 64 << 10;

/// Bytes that may lie in the pipe to the process: with the kernel's own 64 KiB the two of them take
/// turns more often than they work. Where that is not granted, it stays as it is.
const PIPE: i32 = 1 << 20;

/// How long a process may take to end after it closed its standard output. It then has only to exit,
/// which takes longest where much memory is to be given back on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest pause between two looks whether a process has ended.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What the process says. Its author has seen the layer: nothing of it is believed beyond its form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Unpacked(Unpacked),
    Failed(UnpackError),
}

/// Unpacks the layer on standard input as the request before it says, confined. Everything that an
/// `unpack-layer` command has to do; to be called before anything else, with one thread running.
pub fn child_main() -> ExitCode {
    let answer = match begin() {
        Ok(request) => match apply(Unbuffered, &request) {
            Ok(unpacked) => Answer::Unpacked(unpacked),
            Err(error) => Answer::Failed(error),
        },
        Err(error) => Answer::Failed(error),
    };
    let mut stdout = io::stdout().lock();
    let said = serde_json::to_writer(&mut stdout, &answer)
        .map_err(io::Error::from)
        .and_then(|()| stdout.flush());
    match (said, answer) {
        (Ok(()), Answer::Unpacked(_)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn begin() -> Result<Request, UnpackError> {
    let mut request = request(&mut Unbuffered)
        .map_err(|error| UnpackError::process("read the request of", &error))?;
    close_others().map_err(|error| UnpackError::process("close descriptors of", &error))?;
    request.staging = confine(&request)?;
    Ok(request)
}

fn request(input: &mut impl Read) -> io::Result<Request> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > REQUEST {
        return Err(io::Error::other("request is too long"));
    }
    let mut json = vec![0; length as usize];
    input.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Standard input without the buffer that `std` puts before it.
struct Unbuffered;

impl Read for Unbuffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buffer)?)
    }
}

/// Closes whatever was inherited beyond the standard three.
fn close_others() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The descriptor of the listing itself is gone by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// A process that unpacks one layer. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    input: Option<Input>,
    most: u64,
}

/// Where the layer's compressed bytes go. Dropping it ends the layer.
#[derive(Debug)]
pub struct Input(std::process::ChildStdin);

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Child {
    /// Starts `exe` with `args`, which must lead to [`child_main`], and hands it the request.
    pub fn spawn(exe: &Path, args: &[&str], request: &Request) -> io::Result<Self> {
        let json = serde_json::to_vec(request)?;
        let length = u32::try_from(json.len())
            .ok()
            .filter(|length| *length <= REQUEST)
            .ok_or_else(|| io::Error::other("request is too long"))?;
        let mut process = Command::new(exe)
            .args(args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = process.stdin.take().expect("standard input is a pipe");
        let _ = nix::fcntl::fcntl(&input, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE));
        let mut child = Self {
            process,
            input: None,
            // Each name is at most six times as long in JSON, and is listed once.
            most: (1 << 20) + request.limits.name_bytes.saturating_mul(6),
        };
        let mut input = Input(input);
        input.write_all(&length.to_be_bytes())?;
        input.write_all(&json)?;
        child.input = Some(input);
        Ok(child)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where the layer goes, once. A write to it that fails means that the process has given up;
    /// [`Self::finish`] says why.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// Waits for the result; blocks until the process has ended. The [`Input`] must be gone by
    /// then, else this waits for it. A process that has nothing more to say and goes on is killed
    /// after a few seconds. A layer whose bytes did not all arrive may still give a
    /// result: its diff id tells.
    pub fn finish(mut self) -> Result<Unpacked, UnpackError> {
        drop(self.input.take());
        let mut said = Vec::new();
        let stdout = self.process.stdout.take();
        let read = stdout.map_or(Ok(0), |stdout| {
            stdout.take(self.most).read_to_end(&mut said)
        });
        if let Err(error) = read {
            return Err(UnpackError::process("read the result of", &error));
        }
        // It may have more to say than anybody wants to hear.
        let patience = match said.len() as u64 == self.most {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let status = end(&mut self.process, patience)
            .map_err(|error| UnpackError::process("wait for", &error))?;
        match serde_json::from_slice(&said) {
            Ok(Answer::Failed(error)) => Err(error),
            Ok(Answer::Unpacked(unpacked)) if status.success() => Ok(unpacked),
            _ => Err(UnpackError::Died {
                death: death(status),
            }),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if it has been reaped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for a process to end by itself, and ends it when `patience` is over.
fn end(
    process: &mut std::process::Child,
    patience: Duration,
) -> io::Result<std::process::ExitStatus> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            process.kill()?;
            return process.wait();
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn death(status: std::process::ExitStatus) -> Death {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => Death::Signal { signal },
        (None, Some(status)) if status != 0 => Death::Status { status },
        _ => Death::Gibberish,
    }
}
