//! How the kernel finds out that the host of a TCP peer is gone.
//!
//! An idle connection is checked: one to a host that is there lives for ever. Linux checks nothing
//! while replies are unacknowledged; these have a limit of their own. A cut cable can come just
//! before the first reply that is never acknowledged, so a connection ends within twice the limit.

use std::io;
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::sockopt;

/// An idle connection is checked after this time without a sign of its peer's host.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The time between two checks.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The number of checks without an answer that end the connection.
const KEEPALIVE_COUNT: u32 = 3;
/// Replies that the peer's host does not acknowledge within this time end the connection. Linux
/// takes it for the limit of unanswered checks as well.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS: u32 = 25_000;

/// Sends small replies without delay, and notices within a minute that the peer's host is gone.
pub(super) fn set(stream: &TcpStream) {
    let set_keepalive = || {
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
        sockopt::set_socket_keepalive(stream, true)
    };
    log_error(stream.set_nodelay(true).and_then(|()| Ok(set_keepalive()?)));
    limit_unacknowledged(stream, true);
}

/// Limits how long replies may be unacknowledged. Linux applies the limit also to a peer that is
/// there and reads nothing, such as a program in a debugger. So the daemon lifts it when the
/// connection takes no more bytes, and checks the connection itself: see
/// [`blocked_peers`](super::blocked_peers).
pub(super) fn limit_unacknowledged(stream: &TcpStream, is_limited: bool) {
    #[cfg(target_os = "linux")]
    {
        let limit = if is_limited { UNACKNOWLEDGED_MS } else { 0 };
        log_error(sockopt::set_tcp_user_timeout(stream, limit).map_err(io::Error::from));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, is_limited);
}

fn log_error(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "cannot set the options of a TCP connection");
    }
}
