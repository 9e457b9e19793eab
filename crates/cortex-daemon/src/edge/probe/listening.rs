//! Which TCP socket of this network namespace gets the connections to an address.

use std::net::SocketAddr;

use crate::edge::tcp_table::{self, TcpSocket};

/// The inode of the socket that listens at an address of this machine. Not for other machines'
/// addresses: a wildcard listener at the same port would match.
pub(super) fn listening_socket(address: SocketAddr) -> Option<u64> {
    // The kernel lists the listening sockets first; there may be many others.
    let listening = |table| tcp_table::sockets(table).take_while(|socket| socket.is_listening);
    let sockets: Vec<_> = ["tcp", "tcp6"].into_iter().flat_map(listening).collect();
    find(address, &sockets)
}

/// The socket that gets the connections: one at the address itself before one at a wildcard. If
/// several sockets share the address (`SO_REUSEPORT`), it is the one with the lowest inode: any
/// choice would do that is the same as long as they do.
fn find(address: SocketAddr, sockets: &[TcpSocket]) -> Option<u64> {
    let ip = address.ip().to_canonical();
    let rank = |socket: &TcpSocket| {
        let is_exact = socket.ip.to_canonical() == ip;
        // Without IPV6_V6ONLY, which the file does not show, the IPv6 wildcard serves both.
        let serves = socket.ip.is_ipv6() || ip.is_ipv4();
        let is_wildcard = socket.ip.is_unspecified() && serves;
        match socket.port == address.port() {
            true if is_exact => Some((0, socket.inode)),
            true if is_wildcard && socket.ip.is_ipv4() => Some((1, socket.inode)),
            true if is_wildcard => Some((2, socket.inode)),
            _ => None,
        }
    };
    sockets.iter().filter_map(rank).min().map(|(_, inode)| inode)
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::edge::tcp_table::SendCounters;

    fn inode_of(listener: &TcpListener) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    fn listener(address: &str, inode: u64) -> TcpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let sending = SendCounters { unacknowledged: 0, unanswered: 0 };
        TcpSocket { ip: address.ip(), port: address.port(), is_listening: true, inode, sending }
    }

    #[test]
    fn a_socket_at_the_address_comes_before_a_wildcard() {
        let sockets = [
            listener("[::]:5", 1),
            listener("0.0.0.0:5", 2),
            listener("127.0.0.1:5", 3),
            listener("[::ffff:10.0.0.1]:5", 4),
            listener("[::1]:5", 5),
            listener("127.0.0.1:6", 6),
        ];
        let found = |address: &str, sockets: &[TcpSocket]| find(address.parse().unwrap(), sockets);
        assert_eq!(found("127.0.0.1:5", &sockets), Some(3));
        assert_eq!(found("10.0.0.1:5", &sockets), Some(4));
        assert_eq!(found("10.0.0.2:5", &sockets), Some(2));
        assert_eq!(found("[::1]:5", &sockets), Some(5));
        assert_eq!(found("[2001:db8::1]:5", &sockets), Some(1));
        assert_eq!(found("127.0.0.1:5", &sockets[..1]), Some(1), "a dual-stack wildcard");
        assert_eq!(found("[::1]:5", &sockets[1..2]), None, "IPv4 only");
        assert_eq!(found("127.0.0.1:7", &sockets), None);
    }

    #[test]
    fn the_kernels_tables_name_the_listener() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let port = listener.local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(listening_socket(address), Some(inode_of(&listener)), "{bound}");
            drop(listener);
            assert_eq!(listening_socket(address), None, "{bound}");
        }
    }
}
