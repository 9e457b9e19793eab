//! Writes log lines to stderr without blocking.
//!
//! A pipe that no process reads is full after 64 KiB, and a write would then block the daemon's
//! only thread. So the writer first checks whether stderr has room. Without room the line is lost,
//! and a later line reports how many were lost.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The most bytes that a pipe with room takes without blocking (`PIPE_BUF` on Linux).
const MAX_CHUNK: usize = 4096;

/// Stderr, for one log line at a time.
#[derive(Debug, Default)]
pub(crate) struct LogWriter {
    lost: u64,
}

impl Write for LogWriter {
    /// Writes one whole line. Ignores errors, because the daemon has no other place to report them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 && has_room() {
            let note =
                format!("({} log lines were lost, because no process read stderr)\n", self.lost);
            self.lost = 0;
            let _ = io::stderr().write_all(note.as_bytes());
        }
        for chunk in line.chunks(MAX_CHUNK) {
            if !has_room() {
                self.lost += 1;
                break;
            }
            if io::stderr().write_all(chunk).is_err() {
                break;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn has_room() -> bool {
    let stderr = io::stderr();
    let mut stderr = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut stderr, Some(&now)), Ok(ready) if ready > 0)
}
