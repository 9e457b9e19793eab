//! How the loop is told to end from outside.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Ends a daemon from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<UnixStream>);

impl StopHandle {
    /// Asks the daemon to answer what it has read, and to end. Returns at once; may be called
    /// again, also when the daemon has ended.
    pub fn stop(&self) {
        // A full pipe says the same already, and a closed one that the daemon is gone.
        let _ = (&*self.0).write(b"x");
    }

    /// The handle's own end, to be written to by a signal handler.
    pub(super) fn pipe(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }
}

/// The loop's end: readable when somebody has called [`StopHandle::stop`].
#[derive(Debug)]
pub(crate) struct StopSource(mio::net::UnixStream);

impl StopSource {
    pub(crate) fn pair() -> io::Result<(StopHandle, Self)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((StopHandle(Arc::new(theirs)), Self(mio::net::UnixStream::from_std(ours))))
    }

    pub(crate) fn source(&mut self) -> &mut mio::net::UnixStream {
        &mut self.0
    }

    /// Whether somebody asked.
    pub(crate) fn is_asked(&mut self) -> bool {
        let mut bytes = [0; 16];
        matches!(self.0.read(&mut bytes), Ok(count) if count > 0)
    }
}
