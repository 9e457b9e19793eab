//! How a helper is started.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The argument with which `cortex-discovery` serves as a probe helper.
pub(super) const HELPER_ARGUMENT: &str = "--probe-helper";

/// Starts helpers.
pub(in crate::edge::probe) trait Launch: Debug + Send {
    /// Starts a helper that serves at the socket. A helper in this process, in tests, is no child.
    fn launch(&self, socket: UnixStream) -> io::Result<Option<Child>>;
}

/// A program that serves as a helper when it gets [`HELPER_ARGUMENT`].
#[derive(Debug)]
pub(in crate::edge::probe) struct Program(pub(in crate::edge::probe) PathBuf);

impl Launch for Program {
    /// The helper has no descriptor but the socket, and a process group of its own, so that Ctrl-C
    /// in a terminal reaches the daemon alone.
    fn launch(&self, socket: UnixStream) -> io::Result<Option<Child>> {
        Command::new(&self.0)
            .arg(HELPER_ARGUMENT)
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map(Some)
    }
}
