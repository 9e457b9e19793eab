//! How the loop is told to end from outside.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Ends a daemon from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopHandle {
    /// Written to by who wants the end.
    writer: Arc<UnixStream>,
    /// Read by the daemon.
    reader: Arc<UnixStream>,
}

impl StopHandle {
    /// A handle for a daemon that is bound later, with
    /// [`DiscoveryDaemon::bind_with`](crate::DiscoveryDaemon::bind_with).
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (writer, reader) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        reader.set_nonblocking(true)?;
        Ok(Self { writer: Arc::new(writer), reader: Arc::new(reader) })
    }

    /// Asks the daemon to answer what it has read, and to end. Returns at once; may be called
    /// again, also when the daemon has ended, or before it runs.
    pub fn stop(&self) {
        // A full pipe says the same already, and a closed one that the daemon is gone.
        let _ = (&*self.writer).write(b"x");
    }

    /// The handle's own end, to be written to by a signal handler.
    pub(super) fn pipe(&self) -> io::Result<UnixStream> {
        self.writer.try_clone()
    }
}

/// The loop's end: readable when somebody has called [`StopHandle::stop`].
#[derive(Debug)]
pub(crate) struct StopSource(mio::net::UnixStream);

impl StopSource {
    pub(crate) fn of(handle: &StopHandle) -> io::Result<Self> {
        Ok(Self(mio::net::UnixStream::from_std(handle.reader.try_clone()?)))
    }

    pub(crate) fn source(&mut self) -> &mut mio::net::UnixStream {
        &mut self.0
    }

    /// Whether somebody asked.
    pub(crate) fn is_requested(&mut self) -> bool {
        let mut bytes = [0; 16];
        matches!(self.0.read(&mut bytes), Ok(count) if count > 0)
    }
}
