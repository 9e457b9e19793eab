//! Log lines to stderr that never make the daemon wait.
//!
//! A pipe whose reader has stopped takes no more after 64 KiB, and a write would then block the
//! daemon's only thread. So stderr is asked first whether it has room; a line for which there is
//! none is lost, and the next one that goes out says how many were.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// As much as a pipe that has room takes at once, without blocking (`PIPE_BUF` on Linux).
const MAX_CHUNK: usize = 4096;

/// Stderr, for one log line at a time.
#[derive(Debug, Default)]
pub(crate) struct LogWriter {
    lost: u64,
}

impl Write for LogWriter {
    /// Takes a whole line. That it could not be written is nobody's concern here: there is no
    /// better place to complain.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 && has_room() {
            let note = format!("({} log lines were lost: nobody read them)\n", self.lost);
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
