//! Frames: a flags byte, a length of 1 or 8 bytes, a payload.

use super::limits::{MAX_BODY, MAX_COMMAND, MAX_REFUSED_BODY};
use super::violation::Violation;

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Command(Vec<u8>),
    Message { more: bool, payload: Payload },
}

/// A message frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Whole(Vec<u8>),
    /// The size of a payload of more than [`MAX_BODY`] bytes, whose bytes are discarded.
    TooLong(usize),
}

/// Splits a stream of bytes into frames.
///
/// The buffer holds an unfinished frame and the bytes after it. It grows with the bytes that arrive
/// and never by the length that a frame header claims.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    /// The offset of the unread bytes in `buffer`.
    start: usize,
    skipped: Option<SkippedFrame>,
}

/// A frame that is too long: the reader discards its bytes as they arrive.
#[derive(Debug)]
struct SkippedFrame {
    more: bool,
    length: usize,
    left: usize,
}

impl FrameReader {
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        // Free the memory that an earlier burst needed.
        if self.buffer.capacity() > 4 * (self.buffer.len() + bytes.len()) {
            self.buffer.shrink_to(self.buffer.len() + bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Skips unread bytes, such as the greeting, which is no frame.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
            // An idle connection must not keep a large buffer.
            self.buffer.shrink_to(1024);
        }
    }

    /// The next frame, when all of its bytes have arrived.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Violation> {
        if self.skipped.is_some() {
            return Ok(self.skip());
        }
        let Some((flags, header, length)) = parse_header(self.unread()) else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(Violation::FrameFlags(flags));
        }
        if flags & COMMAND != 0 {
            if length > MAX_COMMAND as u64 {
                return Err(Violation::CommandTooLong(length));
            }
            return Ok(self.take(header, length).map(Frame::Command));
        }
        let more = flags & MORE != 0;
        if length > MAX_REFUSED_BODY as u64 {
            return Err(Violation::RequestTooLong(length));
        }
        if length > MAX_BODY as u64 {
            self.consume(header);
            #[expect(clippy::cast_possible_truncation, reason = "at most MAX_REFUSED_BODY")]
            let length = length as usize;
            self.skipped = Some(SkippedFrame { more, length, left: length });
            return Ok(self.skip());
        }
        let payload = self.take(header, length).map(Payload::Whole);
        Ok(payload.map(|payload| Frame::Message { more, payload }))
    }

    /// Reads a frame's payload, when all of its bytes have arrived.
    fn take(&mut self, header: usize, length: u64) -> Option<Vec<u8>> {
        let end = header.checked_add(usize::try_from(length).ok()?)?;
        let payload = self.unread().get(header..end)?.to_vec();
        self.consume(end);
        Some(payload)
    }

    fn skip(&mut self) -> Option<Frame> {
        let available = self.unread().len();
        let skipped = self.skipped.as_mut()?;
        let count = skipped.left.min(available);
        skipped.left -= count;
        let SkippedFrame { more, length, left } = *skipped;
        self.consume(count);
        if left > 0 {
            return None;
        }
        self.skipped = None;
        Some(Frame::Message { more, payload: Payload::TooLong(length) })
    }
}

/// A frame's flags, the length of its header and the length of its payload.
fn parse_header(bytes: &[u8]) -> Option<(u8, usize, u64)> {
    let flags = *bytes.first()?;
    if flags & LONG == 0 {
        return Some((flags, 2, u64::from(*bytes.get(1)?)));
    }
    let length = bytes.get(1..9)?.try_into().ok()?;
    Some((flags, 9, u64::from_be_bytes(length)))
}

/// Appends a message frame's header in its shortest form.
pub(super) fn push_message_header(bytes: &mut Vec<u8>, more: bool, length: usize) {
    push_header(bytes, if more { MORE } else { 0 }, length);
}

/// Appends a whole command frame.
pub(super) fn push_command(bytes: &mut Vec<u8>, name: &str, data: &[u8]) {
    push_header(bytes, COMMAND, 1 + name.len() + data.len());
    #[expect(clippy::cast_possible_truncation, reason = "the daemon's own names are short")]
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(data);
}

fn push_header(bytes: &mut Vec<u8>, flags: u8, length: usize) {
    if let Ok(short) = u8::try_from(length) {
        bytes.extend([flags, short]);
    } else {
        bytes.push(flags | LONG);
        bytes.extend((length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Result<Vec<Frame>, Violation> {
        let mut reader = FrameReader::default();
        reader.receive(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn whole(more: bool, payload: &[u8]) -> Frame {
        Frame::Message { more, payload: Payload::Whole(payload.to_vec()) }
    }

    fn long(flags: u8, length: u64) -> Vec<u8> {
        [&[flags | LONG][..], &length.to_be_bytes()].concat()
    }

    #[test]
    fn short_and_long_frames_are_read_alike() {
        assert_eq!(frames(b"\x01\x00\x00\x02ab"), Ok(vec![whole(true, b""), whole(false, b"ab")]));
        let bytes = [&long(MORE, 0)[..], &long(0, 2), b"ab"].concat();
        assert_eq!(frames(&bytes), Ok(vec![whole(true, b""), whole(false, b"ab")]));
        let command = [&long(COMMAND, 5)[..], b"\x04PING"].concat();
        assert_eq!(frames(&command), Ok(vec![Frame::Command(b"\x04PING".to_vec())]));
    }

    #[test]
    fn written_frames_can_be_read() {
        for length in [0, 1, 255, 256, MAX_BODY] {
            for more in [false, true] {
                let payload = vec![7; length];
                let mut bytes = Vec::new();
                push_message_header(&mut bytes, more, length);
                assert_eq!(bytes.len(), if length < 256 { 2 } else { 9 });
                bytes.extend(&payload);
                assert_eq!(frames(&bytes), Ok(vec![whole(more, &payload)]));
            }
        }
        let mut bytes = Vec::new();
        push_command(&mut bytes, "PONG", b"context");
        assert_eq!(frames(&bytes), Ok(vec![Frame::Command(b"\x04PONGcontext".to_vec())]));
    }

    #[test]
    fn long_payloads_are_counted_and_discarded() {
        let length = MAX_REFUSED_BODY;
        let bytes = [long(0, length as u64), vec![1; length], b"\x00\x01x".to_vec()].concat();
        let too_long = Frame::Message { more: false, payload: Payload::TooLong(length) };
        assert_eq!(frames(&bytes), Ok(vec![too_long, whole(false, b"x")]));

        let mut reader = FrameReader::default();
        for piece in bytes.chunks(1000) {
            reader.receive(piece);
            while reader.next().unwrap().is_some() {}
            assert!(reader.buffer.capacity() < 4096, "the payload is discarded");
        }
    }

    #[test]
    fn frames_that_are_too_long_are_refused_at_their_header() {
        let over = MAX_REFUSED_BODY as u64 + 1;
        for length in [over, 1 << 40, u64::MAX] {
            assert_eq!(frames(&long(0, length)), Err(Violation::RequestTooLong(length)));
            assert_eq!(frames(&long(COMMAND, length)), Err(Violation::CommandTooLong(length)));
        }
        let mut reader = FrameReader::default();
        reader.receive(&long(0, MAX_BODY as u64));
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.buffer.capacity() < 100, "the claimed length is not allocated");
    }

    #[test]
    fn unknown_flags_are_refused() {
        for flags in [0x08, 0x10, 0x80, MORE | COMMAND, MORE | COMMAND | LONG] {
            let bytes = [&[flags][..], &[0; 8]].concat();
            assert_eq!(frames(&bytes), Err(Violation::FrameFlags(flags)));
        }
    }
}
