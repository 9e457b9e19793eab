//! A pipe through which other threads and signal handlers stop the loop.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Stops a daemon from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopHandle {
    /// The end of the pipe to which [`stop`](Self::stop) writes.
    writer: Arc<UnixStream>,
    /// The end that the daemon reads.
    reader: Arc<UnixStream>,
}

impl StopHandle {
    /// A handle for a daemon that is created later with
    /// [`DiscoveryDaemon::bind_with`](crate::DiscoveryDaemon::bind_with).
    ///
    /// # Errors
    /// When the process has no free descriptors.
    pub fn new() -> io::Result<Self> {
        let (writer, reader) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        reader.set_nonblocking(true)?;
        Ok(Self { writer: Arc::new(writer), reader: Arc::new(reader) })
    }

    /// Tells the daemon to answer the requests that it has read, and to end. Returns at once. A
    /// call before the daemon runs stops it at its start; a call after its end does nothing.
    pub fn stop(&self) {
        // An error means a full pipe, which stops the daemon as well, or that the daemon has ended.
        let _ = (&*self.writer).write(b"x");
    }

    /// Waits for at most this time for [`stop`](Self::stop), and returns whether it was called. The
    /// daemon still notices the call later.
    pub(crate) fn is_requested_within(&self, timeout: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(timeout) else { return false };
        let mut ends = [PollFd::new(&*self.reader, PollFlags::IN)];
        matches!(poll(&mut ends, Some(&timeout)), Ok(count) if count > 0)
    }

    /// The writer end, for a signal handler.
    pub(super) fn pipe(&self) -> io::Result<UnixStream> {
        self.writer.try_clone()
    }
}

/// The reader end, for the loop: readable after [`StopHandle::stop`].
#[derive(Debug)]
pub(crate) struct StopSource(mio::net::UnixStream);

impl StopSource {
    pub(crate) fn of(handle: &StopHandle) -> io::Result<Self> {
        Ok(Self(mio::net::UnixStream::from_std(handle.reader.try_clone()?)))
    }

    pub(crate) fn source(&mut self) -> &mut mio::net::UnixStream {
        &mut self.0
    }

    /// Whether [`StopHandle::stop`] was called since the last call.
    pub(crate) fn is_requested(&mut self) -> bool {
        let mut bytes = [0; 16];
        matches!(self.0.read(&mut bytes), Ok(count) if count > 0)
    }
}
