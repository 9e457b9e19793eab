//! Signal handlers. The binary installs them; the library leaves signals to its program.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::stop::StopHandle;

/// Makes SIGINT and SIGTERM stop the daemon of this handle.
///
/// # Errors
/// When the process has no free descriptor, or the system refuses a handler.
pub fn stop_on_signals(handle: &StopHandle) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, handle.pipe()?)?;
    }
    Ok(())
}
