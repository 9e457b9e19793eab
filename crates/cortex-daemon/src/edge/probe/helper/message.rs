//! The messages between the daemon and a probe helper. Both are of the same version.
//!
//! A message is its length (4 bytes, little-endian), the probe's number (8 bytes), a kind (1 byte)
//! and what belongs to the kind.

use std::net::IpAddr;

use crate::edge::probe::outcome::ProbeId;
use crate::peer::Process;
use crate::registry::{ProbeResult, UnknownReason};

const LENGTH: usize = 4;
/// More than any message has.
const MAX_MESSAGE: usize = 4096;

/// What a helper does for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::edge::probe) enum Task {
    /// Connect to a Unix socket.
    Connect { path: String },
    /// Connect to a Unix socket at a path below a process's working directory.
    ConnectFrom { process: Process, path: String },
    /// Resolve a host name.
    Resolve { name: String },
}

/// What a helper reports of a task. All but `Connected` end the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::edge::probe) enum Report {
    /// The socket has accepted the connection. The pid is that of the process that made it listen;
    /// 0: of another pid namespace.
    Connected {
        pid: u32,
    },
    Judged(ProbeResult),
    /// The addresses of a host name; empty: it cannot be resolved.
    Resolved(Vec<IpAddr>),
}

impl Task {
    pub(super) fn encode(&self, id: ProbeId, out: &mut Vec<u8>) {
        match self {
            Self::Connect { path } => encode(id, b'c', &[path.as_bytes()], out),
            Self::ConnectFrom { process, path } => {
                let pid = process.pid.to_le_bytes();
                let start_time = process.start_time.to_le_bytes();
                encode(id, b'f', &[&pid, &start_time, path.as_bytes()], out);
            }
            Self::Resolve { name } => encode(id, b'r', &[name.as_bytes()], out),
        }
    }

    /// `None`: the message is invalid.
    pub(super) fn decode(message: &[u8]) -> Option<(ProbeId, Self)> {
        let (id, kind, mut rest) = split(message)?;
        let task = match kind {
            b'c' => Self::Connect { path: text(rest)? },
            b'f' => {
                let pid = u32::from_le_bytes(take(&mut rest)?);
                let start_time = u64::from_le_bytes(take(&mut rest)?);
                Self::ConnectFrom { process: Process { pid, start_time }, path: text(rest)? }
            }
            b'r' => Self::Resolve { name: text(rest)? },
            _ => return None,
        };
        Some((id, task))
    }
}

impl Report {
    pub(super) fn encode(&self, id: ProbeId, out: &mut Vec<u8>) {
        match self {
            Self::Connected { pid } => encode(id, b'c', &[&pid.to_le_bytes()], out),
            Self::Judged(result) => encode(id, b'j', &[&[result_byte(*result)]], out),
            Self::Resolved(addresses) => {
                let parts: Vec<_> = addresses.iter().map(|ip| ip_bytes(*ip)).collect();
                let parts: Vec<_> = parts.iter().map(<[u8; 16]>::as_slice).collect();
                encode(id, b'r', &parts, out);
            }
        }
    }

    /// `None`: the message is invalid.
    pub(super) fn decode(message: &[u8]) -> Option<(ProbeId, Self)> {
        let (id, kind, mut rest) = split(message)?;
        let report = match kind {
            b'c' => Self::Connected { pid: u32::from_le_bytes(take(&mut rest)?) },
            b'j' => Self::Judged(result_of(*rest.first()?)?),
            b'r' => {
                let mut addresses = Vec::new();
                while !rest.is_empty() {
                    addresses.push(IpAddr::from(take::<16>(&mut rest)?).to_canonical());
                }
                Self::Resolved(addresses)
            }
            _ => return None,
        };
        Some((id, report))
    }
}

/// Takes the first message out of a buffer.
///
/// # Errors
/// When the bytes are no messages.
pub(super) fn take_message(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, InvalidMessage> {
    let Some(&length) = buffer.first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(InvalidMessage);
    }
    if buffer.len() < LENGTH + length {
        return Ok(None);
    }
    let rest = buffer.split_off(LENGTH + length);
    let mut message = std::mem::replace(buffer, rest);
    Ok(Some(message.split_off(LENGTH)))
}

/// The other side does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidMessage;

fn encode(id: ProbeId, kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length = 8 + 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(id.0.to_le_bytes());
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn split(message: &[u8]) -> Option<(ProbeId, u8, &[u8])> {
    let mut rest = message;
    let id = ProbeId(u64::from_le_bytes(take(&mut rest)?));
    let (&kind, rest) = rest.split_first()?;
    Some((id, kind, rest))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (&first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// IPv4 addresses are mapped into IPv6 ones.
fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The results that a helper can have, with their bytes.
const RESULTS: [(u8, ProbeResult); 6] = [
    (b'd', ProbeResult::Dead),
    (b's', ProbeResult::Silent),
    (b'a', ProbeResult::Alive),
    (b'p', ProbeResult::Unknown(UnknownReason::Permission)),
    (b'n', ProbeResult::Unknown(UnknownReason::Address)),
    (FAILURE, ProbeResult::Unknown(UnknownReason::Failure)),
];
const FAILURE: u8 = b'f';

fn result_byte(result: ProbeResult) -> u8 {
    let found = RESULTS.iter().find(|(_, known)| *known == result);
    found.map_or(FAILURE, |(byte, _)| *byte)
}

fn result_of(byte: u8) -> Option<ProbeResult> {
    RESULTS.iter().find(|(known, _)| *known == byte).map(|(_, result)| *result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Vec<Task> {
        let process = Process { pid: 7, start_time: u64::MAX - 1 };
        vec![
            Task::Connect { path: "/tmp/\u{e4}".into() },
            Task::ConnectFrom { process, path: "./s".into() },
            Task::Resolve { name: "robot".into() },
        ]
    }

    fn reports() -> Vec<Report> {
        let mut reports: Vec<_> =
            RESULTS.iter().map(|(_, result)| Report::Judged(*result)).collect();
        reports.extend([
            Report::Connected { pid: 4711 },
            Report::Resolved(vec![]),
            Report::Resolved(vec!["127.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        ]);
        reports
    }

    #[test]
    fn messages_survive_any_splits() {
        let mut sent = Vec::new();
        for (id, task) in (0..).zip(tasks()) {
            task.encode(ProbeId(id), &mut sent);
        }
        for chunk in [1, 3, 1000] {
            let (mut buffer, mut received) = (Vec::new(), Vec::new());
            for part in sent.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(message) = take_message(&mut buffer).unwrap() {
                    received.push(Task::decode(&message).unwrap());
                }
            }
            assert!(buffer.is_empty());
            assert_eq!(received, (0..).map(ProbeId).zip(tasks()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn reports_are_decoded_as_they_were_encoded() {
        for report in reports() {
            let mut buffer = Vec::new();
            report.encode(ProbeId(u64::MAX), &mut buffer);
            let message = take_message(&mut buffer).unwrap().unwrap();
            assert_eq!(Report::decode(&message), Some((ProbeId(u64::MAX), report)));
        }
    }

    #[test]
    fn invalid_messages_are_recognized() {
        assert_eq!(take_message(&mut b"HTTP/1.1 200 OK".to_vec()), Err(InvalidMessage));
        for message in [&b""[..], b"12345678", b"12345678?", b"12345678j", b"12345678j?"] {
            assert_eq!(Report::decode(message), None);
        }
        for message in [&b"12345678?"[..], b"12345678f\x01", b"12345678c\xff"] {
            assert_eq!(Task::decode(message), None);
        }
    }
}
