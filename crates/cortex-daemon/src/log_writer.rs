//! Writes log lines to stderr without blocking.
//!
//! A pipe that no process reads is full after 64 KiB, and a write would then block the daemon's
//! only thread. So the writer first checks whether stderr has room. Without room the line is lost,
//! and a later line reports how many were lost.

use std::borrow::Cow;
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
        let escaped = escape_controls(line);
        for chunk in escaped.chunks(MAX_CHUNK) {
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

/// Replaces control characters in a line as JSON does, which leaves a JSON line valid. Text that a
/// peer chose stands in quoted fields, where most of them are escaped already; JSON leaves some as
/// they are, which a terminal may obey. Escape itself stays, since the colors of a line need it.
fn escape_controls(line: &[u8]) -> Cow<'_, [u8]> {
    let is_kept = |character: char| !character.is_control() || character == '\u{1b}';
    let end = line.strip_suffix(b"\n").map_or(line.len(), <[u8]>::len);
    let Ok(text) = str::from_utf8(&line[..end]) else { return Cow::Borrowed(line) };
    if text.chars().all(is_kept) {
        return Cow::Borrowed(line);
    }
    // Control characters end at U+009F.
    let escape = |character: char| match character {
        character if is_kept(character) => character.to_string(),
        character => format!("\\u{:04x}", u32::from(character)),
    };
    let escaped: String = text.chars().map(escape).collect();
    let mut escaped = escaped.into_bytes();
    escaped.extend_from_slice(&line[end..]);
    Cow::Owned(escaped)
}

fn has_room() -> bool {
    let stderr = io::stderr();
    let mut stderr = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut stderr, Some(&now)), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(line: &str) -> String {
        String::from_utf8(escape_controls(line.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn a_line_stays_one_line_without_control_characters() {
        assert_eq!(escaped("INFO a=\"\u{e4}\u{1f916}\"\n"), "INFO a=\"\u{e4}\u{1f916}\"\n");
        assert_eq!(escaped("\u{1b}[32mINFO\u{1b}[0m a\n"), "\u{1b}[32mINFO\u{1b}[0m a\n");
        assert_eq!(escaped("a\nERROR b\r\t\0\n"), "a\\u000aERROR b\\u000d\\u0009\\u0000\n");
        assert_eq!(escaped("{\"a\":\"\u{7f}\u{9b}2J\"}\n"), "{\"a\":\"\\u007f\\u009b2J\"}\n");
        assert_eq!(escaped("no end\u{85}"), "no end\\u0085");
        assert_eq!(escape_controls(b"\xff\n"), &b"\xff\n"[..]);
    }
}
