//! The bytes that the daemon still has to send to a peer.

use std::collections::{HashSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use crate::shared_body::SHARED_BODY_BYTES;

/// An owned chunk of this size takes no more bytes: a chunk stays in memory until all of it is
/// sent, and a chunk that always grows would stay for ever.
const MAX_OWNED_CHUNK: usize = 16 * 1024;
/// The most chunks for one system call.
const MAX_SLICES: usize = 16;

/// A queue of bytes to send. A reply to many peers is in memory once.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk are sent already.
    sent: usize,
    length: usize,
}

#[derive(Debug)]
enum Chunk {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Output {
    /// The number of bytes to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// The memory that the chunks take, in bytes. A shared chunk counts only once: `seen` contains
    /// the addresses of the shared chunks that were counted before.
    #[must_use]
    pub fn memory(&self, seen: &mut HashSet<usize>) -> usize {
        let memory = |chunk: &Chunk| match chunk {
            Chunk::Owned(bytes) => bytes.capacity(),
            Chunk::Shared(bytes) if seen.insert(bytes.as_ptr().addr()) => bytes.len(),
            Chunk::Shared(_) => 0,
        };
        self.chunks.iter().map(memory).sum()
    }

    /// Whether all bytes are sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The next bytes to send, in at most 16 slices.
    #[must_use]
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        self.chunks
            .iter()
            .take(MAX_SLICES)
            .map(|chunk| IoSlice::new(&chunk.bytes()[std::mem::take(&mut skip)..]))
            .collect()
    }

    /// Removes the first `count` bytes, which are sent.
    pub fn advance(&mut self, count: usize) {
        self.length -= count;
        self.sent += count;
        while let Some(first) = self.chunks.front()
            && self.sent >= first.bytes().len()
        {
            self.sent -= first.bytes().len();
            self.chunks.pop_front();
        }
    }

    /// Removes all bytes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends the bytes that `write` writes.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let last_has_room =
            matches!(self.chunks.back(), Some(Chunk::Owned(last)) if last.len() < MAX_OWNED_CHUNK);
        if !last_has_room {
            self.chunks.push_back(Chunk::Owned(Vec::new()));
        }
        if let Some(Chunk::Owned(bytes)) = self.chunks.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.length += bytes.len() - before;
        }
    }

    pub(super) fn append_shared(&mut self, bytes: &Arc<[u8]>) {
        if bytes.len() < SHARED_BODY_BYTES {
            self.append(|owned| owned.extend_from_slice(bytes));
        } else {
            self.chunks.push_back(Chunk::Shared(Arc::clone(bytes)));
            self.length += bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_sent_in_order_in_steps_of_any_size() {
        for step in [1, 2, 3, 4095, 4096, 10_000, 100_000] {
            let (mut output, mut expected) = (Output::default(), Vec::new());
            for number in 0..40_u8 {
                let body: Arc<[u8]> = vec![number; 300 * usize::from(number)].into();
                output.append(|bytes| bytes.extend([number, 1]));
                output.append_shared(&body);
                expected.extend([number, 1]);
                expected.extend(&*body);
            }
            let mut sent: Vec<u8> = Vec::new();
            while !output.is_empty() {
                let before = sent.len();
                for slice in output.slices() {
                    let room = step - (sent.len() - before);
                    sent.extend(&slice[..slice.len().min(room)]);
                }
                output.advance(sent.len() - before);
                assert_eq!(output.len(), expected.len() - sent.len());
            }
            assert!(sent == expected, "in steps of {step}");
            assert!(output.slices().is_empty(), "no empty chunk stays");
        }
    }

    #[test]
    fn shared_bytes_count_once() {
        let body: Arc<[u8]> = vec![7; 10_000].into();
        let mut outputs = [Output::default(), Output::default()];
        for output in &mut outputs {
            output.append_shared(&body);
            output.append_shared(&body);
            output.append(|bytes| bytes.extend([7; 100]));
        }
        let mut seen = HashSet::new();
        let memory = outputs.each_ref().map(|output| output.memory(&mut seen));
        assert!((10_100..10_300).contains(&memory[0]), "{memory:?}");
        assert!((100..300).contains(&memory[1]), "{memory:?}");
    }

    #[test]
    fn sent_bytes_are_freed_although_the_queue_is_never_empty() {
        let mut output = Output::default();
        for _ in 0..10_000 {
            output.append(|bytes| bytes.extend([7; 1000]));
            if output.len() > 100_000 {
                output.advance(1000);
            }
        }
        let kept: usize = output.chunks.iter().map(|chunk| chunk.bytes().len()).sum();
        assert!(kept <= output.len() + 2 * MAX_OWNED_CHUNK, "{kept} bytes for {}", output.len());
    }
}
