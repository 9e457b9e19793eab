//! READY, the command with a socket's properties that ends the handshake.

use super::frame::push_command;
use super::violation::Violation;

const SOCKET_TYPE: &str = "Socket-Type";

/// The socket types that send requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketType {
    Req,
    Dealer,
}

/// Appends the daemon's READY. To libzmq the daemon is a ROUTER socket.
pub(super) fn push_ready(bytes: &mut Vec<u8>) {
    let mut properties = Vec::new();
    push_property(&mut properties, SOCKET_TYPE, "ROUTER");
    push_command(bytes, "READY", &properties);
}

/// Appends an ERROR command, which tells the peer why the connection ends.
pub(super) fn push_error(bytes: &mut Vec<u8>, reason: &str) {
    let mut data = Vec::new();
    push_short_text(&mut data, reason);
    push_command(bytes, "ERROR", &data);
}

/// Reads the socket type from a peer's READY. The daemon ignores all other properties: it needs no
/// `Identity`, because a reply goes to the connection of its request.
pub(super) fn parse(command: &[u8]) -> Result<SocketType, Violation> {
    let (name, mut properties) = split_name(command)?;
    if name != b"READY" {
        return Err(Violation::Handshake("its first command is not READY"));
    }
    let mut socket_type = None;
    while !properties.is_empty() {
        let (name, value, rest) =
            split_property(properties).ok_or(Violation::Handshake("a property is cut off"))?;
        // RFC 37: names are case-insensitive.
        if name.eq_ignore_ascii_case(SOCKET_TYPE.as_bytes()) {
            socket_type = Some(value);
        }
        properties = rest;
    }
    match socket_type {
        Some(b"REQ") => Ok(SocketType::Req),
        Some(b"DEALER") => Ok(SocketType::Dealer),
        Some(other) => {
            let other = &other[..other.len().min(64)];
            Err(Violation::SocketType(String::from_utf8_lossy(other).into_owned()))
        }
        None => Err(Violation::Handshake("it has no Socket-Type")),
    }
}

/// A command's name and its data.
pub(super) fn split_name(command: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    command
        .split_first()
        .and_then(|(&length, rest)| rest.split_at_checked(length.into()))
        .ok_or(Violation::Handshake("a command has no name"))
}

fn split_property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&name_length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(name_length.into())?;
    let (value_length, rest) = rest.split_first_chunk::<4>()?;
    let value_length = usize::try_from(u32::from_be_bytes(*value_length)).ok()?;
    let (value, rest) = rest.split_at_checked(value_length)?;
    Some((name, value, rest))
}

fn push_property(bytes: &mut Vec<u8>, name: &str, value: &str) {
    push_short_text(bytes, name);
    #[expect(clippy::cast_possible_truncation, reason = "the daemon's own values are short")]
    bytes.extend((value.len() as u32).to_be_bytes());
    bytes.extend_from_slice(value.as_bytes());
}

/// Appends a byte with the length and at most 255 bytes of the text.
fn push_short_text(bytes: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(255)];
    #[expect(clippy::cast_possible_truncation, reason = "cut to 255 bytes above")]
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(properties: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = b"\x05READY".to_vec();
        for (name, value) in properties {
            push_property(&mut bytes, name, value);
        }
        bytes
    }

    #[test]
    fn req_and_dealer_are_accepted_with_any_other_properties() {
        for (properties, socket) in [
            (&[("Socket-Type", "REQ")][..], SocketType::Req),
            (&[("Identity", "me"), ("SOCKET-TYPE", "DEALER")], SocketType::Dealer),
            (&[("socket-type", "REQ"), ("X-Any", &"x".repeat(300))], SocketType::Req),
        ] {
            assert_eq!(parse(&ready(properties)), Ok(socket));
        }
    }

    #[test]
    fn other_socket_types_are_refused() {
        for socket_type in ["REP", "ROUTER", "PUB", "SUB", "req", ""] {
            let error = parse(&ready(&[("Socket-Type", socket_type)])).unwrap_err();
            assert_eq!(error, Violation::SocketType(socket_type.into()));
        }
    }

    #[test]
    fn a_broken_handshake_is_refused() {
        let whole = ready(&[("Socket-Type", "REQ")]);
        for end in 0..whole.len() {
            assert!(matches!(parse(&whole[..end]), Err(Violation::Handshake(_))), "{end}");
        }
        assert!(matches!(parse(b"\x04PING"), Err(Violation::Handshake(_))));
        let mut claim = b"\x05READY\x0bSocket-Type".to_vec();
        claim.extend([0xff; 4]);
        assert!(matches!(parse(&claim), Err(Violation::Handshake(_))));
    }
}
