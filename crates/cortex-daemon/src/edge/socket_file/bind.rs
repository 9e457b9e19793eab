//! Binding a socket to a path, so that its file has the right mode from the first moment.
//!
//! Only the umask can do that. A mode that is set afterwards, by the path, may hit a file that
//! another program has put there.

use std::os::fd::OwnedFd;
use std::thread;

#[cfg(target_os = "linux")]
use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::umask;

/// Binds a socket. The file gets the mode; without one the umask decides.
pub(super) fn bind_with_mode(
    socket: &OwnedFd,
    address: &SocketAddrUnix,
    mode: Option<u32>,
) -> Result<(), Errno> {
    let bind = || rustix::net::bind(socket, address);
    let Some(mode) = mode else { return bind() };
    let mask = Mode::from_raw_mode(0o777 & !mode);
    // A thread that has left the others' umask can change its own one.
    let bound = thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            own_umask().then(|| {
                umask(mask);
                bind()
            })
        });
        thread.ok().and_then(|thread| thread.join().ok().flatten())
    });
    bound.unwrap_or_else(|| {
        // Some containers forbid that. Then the whole process has this umask for a moment.
        let before = umask(mask);
        let bound = bind();
        umask(before);
        bound
    })
}

/// Gives the calling thread an umask (and a working directory) of its own.
#[cfg(target_os = "linux")]
fn own_umask() -> bool {
    unshare(CloneFlags::CLONE_FS).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn own_umask() -> bool {
    false
}
