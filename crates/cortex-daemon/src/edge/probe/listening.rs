//! Which TCP socket of this network namespace gets the connections to an address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A row of `/proc/net/tcp` or `/proc/net/tcp6` with the state LISTEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListenRow {
    /// As in the file: `tcp6` also has IPv4 addresses, mapped.
    ip: IpAddr,
    port: u16,
    inode: u64,
}

/// The inode of the socket that listens at an address of this machine. Not for other machines'
/// addresses: a wildcard listener at the same port would match.
#[cfg(target_os = "linux")]
pub(super) fn listening_socket(address: SocketAddr) -> Option<u64> {
    use std::io::{BufRead as _, BufReader};

    let mut rows = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = std::fs::File::open(file) else { continue };
        let lines = BufReader::with_capacity(4096, file).lines().skip(1).map_while(Result::ok);
        // The kernel lists the listening sockets first; there may be many others.
        rows.extend(lines.map_while(|line| parse_row(&line)));
    }
    find(address, &rows)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn listening_socket(_address: SocketAddr) -> Option<u64> {
    None
}

/// The socket that gets the connections: one at the address itself before one at a wildcard. If
/// several sockets share the address (`SO_REUSEPORT`), it is the one with the lowest inode: any
/// choice would do that is the same as long as they do.
fn find(address: SocketAddr, rows: &[ListenRow]) -> Option<u64> {
    let ip = address.ip().to_canonical();
    let rank = |row: &ListenRow| {
        let is_exact = row.ip.to_canonical() == ip;
        // Without IPV6_V6ONLY, which the file does not show, the IPv6 wildcard serves both.
        let serves = row.ip.is_ipv6() || ip.is_ipv4();
        let is_wildcard = row.ip.is_unspecified() && serves;
        match row.port == address.port() {
            true if is_exact => Some((0, row.inode)),
            true if is_wildcard && row.ip.is_ipv4() => Some((1, row.inode)),
            true if is_wildcard => Some((2, row.inode)),
            _ => None,
        }
    };
    rows.iter().filter_map(rank).min().map(|(_, inode)| inode)
}

/// `None` for a row with another state.
fn parse_row(line: &str) -> Option<ListenRow> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    (state == "0A").then_some(())?;
    Some(ListenRow { ip: parse_ip(ip)?, port: u16::from_str_radix(port, 16).ok()?, inode })
}

/// The kernel prints each 32 bits of an address as a number in the machine's byte order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(8 * index..8 * index + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn inode_of(listener: &TcpListener) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap();
        text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
    }

    fn row(address: &str, inode: u64) -> ListenRow {
        let address: SocketAddr = address.parse().unwrap();
        ListenRow { ip: address.ip(), port: address.port(), inode }
    }

    #[test]
    fn rows_are_parsed() {
        if cfg!(target_endian = "big") {
            return;
        }
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0";
        assert_eq!(parse_row(v4), Some(row("127.0.0.1:8080", 4711)));
        let v6 = "   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1";
        assert_eq!(parse_row(v6), Some(row("[::ffff:127.0.0.1]:22", 42)));
        assert_eq!(parse_row(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse_row(""), None);
    }

    #[test]
    fn a_socket_at_the_address_comes_before_a_wildcard() {
        let rows = [
            row("[::]:5", 1),
            row("0.0.0.0:5", 2),
            row("127.0.0.1:5", 3),
            row("[::ffff:10.0.0.1]:5", 4),
            row("[::1]:5", 5),
            row("127.0.0.1:6", 6),
        ];
        let found = |address: &str, rows: &[ListenRow]| find(address.parse().unwrap(), rows);
        assert_eq!(found("127.0.0.1:5", &rows), Some(3));
        assert_eq!(found("10.0.0.1:5", &rows), Some(4));
        assert_eq!(found("10.0.0.2:5", &rows), Some(2));
        assert_eq!(found("[::1]:5", &rows), Some(5));
        assert_eq!(found("[2001:db8::1]:5", &rows), Some(1));
        assert_eq!(found("127.0.0.1:5", &rows[..1]), Some(1), "a dual-stack wildcard");
        assert_eq!(found("[::1]:5", &rows[1..2]), None, "IPv4 only");
        assert_eq!(found("127.0.0.1:7", &rows), None);
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
