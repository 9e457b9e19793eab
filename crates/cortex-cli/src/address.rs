//! The daemon's address, parsed before the command connects.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;

use cortex_client::DEFAULT_DISCOVERY_ADDRESS;

use crate::args::ADDRESS_VARIABLE;
use crate::error::{CliError, Kind};

/// The limit of the operating system for a socket path, in bytes.
const MAX_PATH_BYTES: usize = 107;

/// A valid address for a connection to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    text: String,
    target: Target,
}

/// What the address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A socket file.
    Path(PathBuf),
    /// The name of a socket in Linux's abstract namespace, without the `@`.
    Abstract(String),
    /// An IP address with a TCP port.
    Ip(SocketAddr),
    /// A host name with a TCP port. Only `ZeroMQ` resolves host names.
    Hostname,
}

impl Address {
    /// Returns the address of the option, or else of the environment variable, or else the
    /// default. An empty variable counts as not set.
    pub(crate) fn choose(option: Option<&str>, variable: Option<&OsStr>) -> Result<Self, CliError> {
        if let Some(text) = option {
            return Self::parse(text);
        }
        match variable.filter(|value| !value.is_empty()).map(OsStr::to_str) {
            None => Self::parse(DEFAULT_DISCOVERY_ADDRESS),
            Some(Some(text)) => Self::parse(text),
            Some(None) => {
                Err(CliError::new(Kind::Usage, format!("${ADDRESS_VARIABLE} is not valid UTF-8")))
            }
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let invalid = |reason: String| {
            CliError::new(Kind::Usage, format!("{reason}: {text:?}"))
                .with_hint("an address is ipc://PATH, ipc://@NAME or tcp://HOST:PORT")
        };
        let target = match text.split_once("://") {
            Some(("ipc", path)) => parse_ipc(path).map_err(invalid)?,
            Some(("tcp", host)) => parse_tcp(host).map_err(invalid)?,
            Some((scheme, _)) => {
                return Err(invalid(format!("a daemon cannot listen at {scheme}://")));
            }
            None => return Err(invalid("not an address".to_owned())),
        };
        Ok(Self { text: text.to_owned(), target })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn is_default(&self) -> bool {
        self.text == DEFAULT_DISCOVERY_ADDRESS
    }
}

fn parse_ipc(path: &str) -> Result<Target, String> {
    if path.len() > MAX_PATH_BYTES {
        return Err(format!(
            "the socket path is too long: at most {MAX_PATH_BYTES} bytes, not {}",
            path.len()
        ));
    }
    match path.strip_prefix('@') {
        _ if path.contains('\0') => Err("the socket path contains a NUL byte".to_owned()),
        _ if path.is_empty() => Err("the socket path is missing".to_owned()),
        Some("") => Err("the socket name is missing".to_owned()),
        Some(name) => Ok(Target::Abstract(name.to_owned())),
        None => Ok(Target::Path(path.into())),
    }
}

fn parse_tcp(host: &str) -> Result<Target, String> {
    let (name, port) = host.rsplit_once(':').ok_or("the port is missing")?;
    match port.parse() {
        Ok(1_u16..) => {}
        Ok(0) | Err(_) => return Err("the port must be a number from 1 to 65535".to_owned()),
    }
    match name {
        "" => Err("the host is missing".to_owned()),
        "*" => Err("`*` is only for listening; give one host".to_owned()),
        _ if name.contains(|character: char| character.is_whitespace() || character == '\0') => {
            Err("this is not a host name".to_owned())
        }
        _ => Ok(host.parse().map_or(Target::Hostname, Target::Ip)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_target() {
        let longest = "a".repeat(107);
        for (text, target) in [
            ("ipc:///tmp/a.sock", Target::Path("/tmp/a.sock".into())),
            ("ipc://here.sock", Target::Path("here.sock".into())),
            ("ipc://@cortex", Target::Abstract("cortex".into())),
            ("tcp://127.0.0.1:5550", Target::Ip(([127, 0, 0, 1], 5550).into())),
            ("tcp://[::1]:5550", Target::Ip(([0, 0, 0, 0, 0, 0, 0, 1], 5550).into())),
            ("tcp://robot.local:5550", Target::Hostname),
            (&format!("ipc://{longest}"), Target::Path(longest.as_str().into())),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.as_str(), address.target()), (text, &target));
        }
    }

    #[test]
    fn unusable_addresses_have_a_reason() {
        let long = format!("ipc://{}", "a".repeat(108));
        for (text, reason) in [
            ("", "not an address"),
            ("/tmp/cortex/discovery.sock", "not an address"),
            ("udp://10.0.0.1:1", "a daemon cannot listen at udp://"),
            ("ipc://", "the socket path is missing"),
            ("ipc://@", "the socket name is missing"),
            (&long, "the socket path is too long: at most 107 bytes, not 108"),
            ("tcp://10.0.0.1", "the port is missing"),
            ("tcp://10.0.0.1:0", "the port must be a number from 1 to 65535"),
            ("tcp://10.0.0.1:65536", "the port must be a number from 1 to 65535"),
            ("tcp://:5550", "the host is missing"),
            ("tcp://*:5550", "`*` is only for listening; give one host"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.message(), format!("{reason}: {text:?}"));
            assert_eq!(error.kind(), Kind::Usage);
        }
    }

    #[test]
    fn the_option_overrides_the_environment_and_an_empty_variable_is_ignored() {
        let choose = |option: Option<&str>, variable: Option<&str>| {
            let address = Address::choose(option, variable.map(OsStr::new)).unwrap();
            address.as_str().to_owned()
        };
        assert_eq!(choose(Some("ipc://a"), Some("ipc://b")), "ipc://a");
        assert_eq!(choose(None, Some("ipc://b")), "ipc://b");
        assert_eq!(choose(None, Some("")), DEFAULT_DISCOVERY_ADDRESS);
        assert_eq!(choose(None, None), DEFAULT_DISCOVERY_ADDRESS);
        assert!(Address::choose(Some(""), None).is_err());
    }
}
