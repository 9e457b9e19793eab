//! From the text of an address to what it names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{AddressError, ConnectTarget, ListenTarget, MAX_SOCKET_PATH};

/// The longest host name of the DNS, in bytes.
const MAX_HOST_NAME: usize = 253;
/// The longest part of a host name between two dots, in bytes.
const MAX_HOST_LABEL: usize = 63;

pub(super) fn parse_target(text: &str) -> Result<ConnectTarget, AddressError> {
    match Transport::split(text)? {
        Transport::Ipc(path) => Ok(match parse_ipc(path)? {
            IpcTarget::Path(path) => ConnectTarget::Path(path),
            IpcTarget::Abstract(name) => ConnectTarget::Abstract(name),
        }),
        Transport::Tcp(host_and_port) => {
            let (host, port) = split_port(host_and_port)?;
            let number = match parse_port(port)? {
                0 => return Err(AddressError::Port { port: port.to_owned() }),
                number => number,
            };
            parse_host(host, number)
        }
    }
}

pub(super) fn parse_listen_target(text: &str) -> Result<ListenTarget, AddressError> {
    match Transport::split(text)? {
        Transport::Ipc(path) => Ok(match parse_ipc(path)? {
            IpcTarget::Path(path) => ListenTarget::Path(path),
            IpcTarget::Abstract(name) => ListenTarget::Abstract(name),
        }),
        Transport::Tcp(host_and_port) => {
            let (host, port) = split_port(host_and_port)?;
            let port = if port == "*" { 0 } else { parse_port(port)? };
            Ok(ListenTarget::Tcp(SocketAddr::new(parse_listen_host(host)?, port)))
        }
    }
}

/// The text after each transport's `://`.
enum Transport<'a> {
    Ipc(&'a str),
    Tcp(&'a str),
}

impl<'a> Transport<'a> {
    fn split(text: &'a str) -> Result<Self, AddressError> {
        match text.split_once("://") {
            Some(("ipc", path)) => Ok(Self::Ipc(path)),
            Some(("tcp", host_and_port)) => Ok(Self::Tcp(host_and_port)),
            None | Some(("", _)) => Err(AddressError::NoTransport),
            Some((transport, _)) => {
                Err(AddressError::Transport { transport: transport.to_owned() })
            }
        }
    }
}

enum IpcTarget {
    Path(PathBuf),
    Abstract(String),
}

fn parse_ipc(path: &str) -> Result<IpcTarget, AddressError> {
    if path.len() > MAX_SOCKET_PATH {
        return Err(AddressError::PathTooLong { length: path.len() });
    }
    if path.contains('\0') {
        return Err(AddressError::NulByte);
    }
    if let Some(name) = path.strip_prefix('@') {
        return match name {
            "" => Err(AddressError::NoAbstractName),
            name => Ok(IpcTarget::Abstract(name.to_owned())),
        };
    }
    match path.rsplit('/').next() {
        None | Some("" | "." | "..") => Err(AddressError::NoFileName),
        Some("*") => Err(AddressError::WildcardFileName),
        Some(_) => Ok(IpcTarget::Path(path.into())),
    }
}

fn split_port(host_and_port: &str) -> Result<(&str, &str), AddressError> {
    match host_and_port.rsplit_once(':') {
        // In `[::1]` the last colon belongs to the host.
        None | Some((_, "")) => Err(AddressError::NoPort),
        Some(_) if host_and_port.ends_with(']') => Err(AddressError::NoPort),
        Some(("", _)) => Err(AddressError::NoHost),
        Some((host, port)) => Ok((host, port)),
    }
}

fn parse_port(port: &str) -> Result<u16, AddressError> {
    let invalid = || AddressError::Port { port: port.to_owned() };
    // Rust's parser also takes a plus sign.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    port.parse().map_err(|_| invalid())
}

fn parse_host(host: &str, port: u16) -> Result<ConnectTarget, AddressError> {
    let invalid = || AddressError::Host { host: host.to_owned() };
    let in_brackets = strip_brackets(host);
    if host == "*" {
        return Err(AddressError::WildcardHost);
    }
    if in_brackets.is_none() && host.contains(':') {
        return Err(AddressError::NoBrackets { host: host.to_owned() });
    }
    if let Ok(ip) = in_brackets.unwrap_or(host).parse::<IpAddr>() {
        return Ok(ConnectTarget::Ip(SocketAddr::new(ip, port)));
    }
    let name = match in_brackets {
        Some(ip) => Some(ip).filter(|ip| is_ip_with_zone(ip)),
        None => Some(host).filter(|host| is_host_name(host)),
    };
    Ok(ConnectTarget::HostName { name: name.ok_or_else(invalid)?.to_owned(), port })
}

fn parse_listen_host(host: &str) -> Result<IpAddr, AddressError> {
    match strip_brackets(host).unwrap_or(host) {
        "*" => Ok(Ipv4Addr::UNSPECIFIED.into()),
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        ip => ip.parse().map_err(|_| AddressError::ListenHost { host: host.to_owned() }),
    }
}

fn strip_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// Whether a resolver may know the name. It may end with a dot. A name of digits and dots is an IPv4
/// address, so it must be a valid one.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.len() <= MAX_HOST_LABEL;
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= MAX_HOST_NAME
        && is_word(name)
        && name.strip_suffix('.').unwrap_or(name).split('.').all(is_label)
        && !is_number
}

/// Whether it is an IPv6 address and the number or the name of a network interface.
fn is_ip_with_zone(text: &str) -> bool {
    text.split_once('%').is_some_and(|(ip, zone)| {
        ip.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && is_word(zone)
    })
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}
