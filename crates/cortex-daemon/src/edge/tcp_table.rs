//! The kernel's tables of the TCP sockets in this network namespace.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv6Addr};

/// A row of `/proc/net/tcp` or `/proc/net/tcp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpSocket {
    /// The socket's own address. As in the file: `tcp6` also has IPv4 addresses, mapped.
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) is_listening: bool,
    pub(super) inode: u64,
    pub(super) sending: SendCounters,
}

/// What the kernel counts of the bytes that a socket sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendCounters {
    /// The bytes that the peer's host has not acknowledged.
    pub(super) unacknowledged: u32,
    /// How often the kernel has sent the same bytes again (RTO), or has asked a peer with a full
    /// window whether it takes bytes (zero-window probes), since the last answer.
    pub(super) unanswered: u32,
}

/// The sockets of one table; `table` is `tcp` or `tcp6`. The kernel lists those that listen first.
/// Empty if the table cannot be read.
pub(super) fn sockets(table: &str) -> impl Iterator<Item = TcpSocket> {
    let file = File::open(format!("/proc/net/{table}")).ok();
    let lines = file.map(|file| BufReader::with_capacity(4096, file).lines());
    let rows = lines.into_iter().flatten().skip(1).map_while(Result::ok);
    rows.filter_map(|row| parse_row(&row))
}

fn parse_row(row: &str) -> Option<TcpSocket> {
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let mut fields = row.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let (unacknowledged, _unread) = fields.next()?.split_once(':')?;
    let retransmissions = hex(fields.nth(1)?)?;
    let zero_window_probes: u32 = fields.nth(1)?.parse().ok()?;
    let inode = fields.next()?.parse().ok()?;
    Some(TcpSocket {
        ip: parse_ip(ip)?,
        port: u16::from_str_radix(port, 16).ok()?,
        is_listening: state == "0A",
        inode,
        sending: SendCounters {
            unacknowledged: hex(unacknowledged)?,
            unanswered: retransmissions.saturating_add(zero_window_probes),
        },
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_parsed() {
        if cfg!(target_endian = "big") {
            return;
        }
        let idle = SendCounters { unacknowledged: 0, unanswered: 0 };
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0";
        let listening = TcpSocket {
            ip: [127, 0, 0, 1].into(),
            port: 8080,
            is_listening: true,
            inode: 4711,
            sending: idle,
        };
        assert_eq!(parse_row(v4), Some(listening));
        let v6 = "   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1";
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        let v6_listening = TcpSocket { ip: mapped, port: 22, inode: 42, ..listening };
        assert_eq!(parse_row(v6), Some(v6_listening));
        for damaged in ["", &v4[..40], &v4.replace("4711", "x"), &v4.replace("7F:", "7:")] {
            assert_eq!(parse_row(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn a_row_tells_what_the_peers_host_has_not_answered() {
        let row = |timer: &str, retransmissions: &str, probes: &str| {
            let row = format!(
                "   9: 01004D0A:1CE8 02004D0A:A1B2 01 0027F3A0:00000000 {timer}:00000123 {retransmissions}     0        {probes} 815 2 0000000000000000 3168 4 26 10 7"
            );
            let socket = parse_row(&row).unwrap();
            assert_eq!((socket.is_listening, socket.inode), (false, 815));
            assert_eq!(socket.sending.unacknowledged, 0x27_F3A0);
            socket.sending.unanswered
        };
        assert_eq!(
            row("04", "00000000", "0"),
            0,
            "the peer's window is full, and its host answers"
        );
        assert_eq!(row("04", "00000000", "10"), 10, "zero-window probes are decimal");
        assert_eq!(row("01", "0000000B", "0"), 11, "retransmissions are hexadecimal");
    }
}
