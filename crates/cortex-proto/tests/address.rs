//! Which texts are addresses, and what the errors say about the others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use cortex_proto::{
    Address, AddressError, ConnectTarget, DEFAULT_DISCOVERY_ADDRESS, ListenAddress, ListenTarget,
    MAX_SOCKET_PATH,
};
use proptest::prelude::*;

fn address(text: &str) -> Result<Address, AddressError> {
    text.parse()
}

fn listen_address(text: &str) -> Result<ListenAddress, AddressError> {
    text.parse()
}

fn ip(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn host_name(name: &str) -> ConnectTarget {
    ConnectTarget::HostName { name: name.to_owned(), port: 5550 }
}

#[test]
fn a_client_connects_to_paths_abstract_names_ip_addresses_and_host_names() {
    let longest = format!("ipc://{}", "p".repeat(MAX_SOCKET_PATH));
    let longest_name = format!("ipc://@{}", "n".repeat(MAX_SOCKET_PATH - 1));
    let longest_label = format!("tcp://{}.local:5550", "h".repeat(63));
    for (text, target) in [
        ("ipc:///tmp/a.sock", ConnectTarget::Path("/tmp/a.sock".into())),
        ("ipc://here.sock", ConnectTarget::Path("here.sock".into())),
        ("ipc:///my robot/größe.sock", ConnectTarget::Path("/my robot/größe.sock".into())),
        (&longest, ConnectTarget::Path("p".repeat(107).into())),
        ("ipc://@cortex", ConnectTarget::Abstract("cortex".into())),
        ("ipc://@/", ConnectTarget::Abstract("/".into())),
        (&longest_name, ConnectTarget::Abstract("n".repeat(106))),
        ("tcp://127.0.0.1:5550", ConnectTarget::Ip(ip("127.0.0.1:5550"))),
        ("tcp://0.0.0.0:1", ConnectTarget::Ip(ip("0.0.0.0:1"))),
        ("tcp://[::1]:65535", ConnectTarget::Ip(ip("[::1]:65535"))),
        ("tcp://robot.local:5550", host_name("robot.local")),
        ("tcp://Robot_1:5550", host_name("Robot_1")),
        ("tcp://robot.example.:5550", host_name("robot.example.")),
        ("tcp://4f00:5550", host_name("4f00")),
        ("tcp://[fe80::1%eth0.7]:5550", host_name("fe80::1%eth0.7")),
        (&longest_label, host_name(&format!("{}.local", "h".repeat(63)))),
    ] {
        let address = address(text).unwrap();
        assert_eq!((address.target(), address.as_str()), (&target, text));
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn the_text_of_an_address_is_canonical() {
    for (text, canonical) in [
        ("tcp://127.0.0.1:05550", "tcp://127.0.0.1:5550"),
        ("tcp://[127.0.0.1]:5550", "tcp://127.0.0.1:5550"),
        ("tcp://[0:0::0:1]:5550", "tcp://[::1]:5550"),
        ("tcp://[FE80::A]:5550", "tcp://[fe80::a]:5550"),
    ] {
        assert_eq!(address(text).unwrap().as_str(), canonical);
        assert_eq!(address(text), address(canonical));
    }
}

#[test]
fn the_default_is_the_default_address() {
    assert_eq!(address(DEFAULT_DISCOVERY_ADDRESS), Ok(Address::default()));
    assert_eq!(Address::default().to_string(), DEFAULT_DISCOVERY_ADDRESS);
}

#[test]
fn a_daemon_listens_at_paths_abstract_names_and_ip_addresses() {
    for (text, target) in [
        ("ipc:///tmp/a.sock", ListenTarget::Path("/tmp/a.sock".into())),
        ("ipc://here.sock", ListenTarget::Path("here.sock".into())),
        ("ipc://@cortex", ListenTarget::Abstract("cortex".into())),
        ("tcp://127.0.0.1:5550", ListenTarget::Tcp(ip("127.0.0.1:5550"))),
        ("tcp://[::1]:5550", ListenTarget::Tcp(ip("[::1]:5550"))),
        ("tcp://0.0.0.0:0", ListenTarget::Tcp(ip("0.0.0.0:0"))),
    ] {
        let address = listen_address(text).unwrap();
        assert_eq!((address.target(), address.as_str()), (&target, text));
        assert_eq!(address.to_string(), text);
    }
    for (text, canonical) in [
        ("tcp://*:5555", "tcp://0.0.0.0:5555"),
        ("tcp://localhost:*", "tcp://127.0.0.1:0"),
        ("tcp://::1:5555", "tcp://[::1]:5555"),
        ("tcp://[::]:5555", "tcp://[::]:5555"),
    ] {
        assert_eq!(listen_address(text).unwrap().as_str(), canonical);
    }
}

#[test]
fn unusable_socket_paths_are_refused_for_clients_and_daemons() {
    let long = format!("ipc://{}", "p".repeat(108));
    let long_name = format!("ipc://@{}", "n".repeat(107));
    for (text, message) in [
        ("", "the transport is missing: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT"),
        (
            "/tmp/x.sock",
            "the transport is missing: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT",
        ),
        ("://x", "the transport is missing: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT"),
        (
            "ws://10.0.0.1:5550",
            r#"the transport "ws" is not supported: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT"#,
        ),
        (
            "IPC:///x",
            r#"the transport "IPC" is not supported: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT"#,
        ),
        ("ipc://", "the socket path has no file name: write ipc:///directory/name.sock"),
        ("ipc:///tmp/", "the socket path has no file name: write ipc:///directory/name.sock"),
        ("ipc:///tmp/.", "the socket path has no file name: write ipc:///directory/name.sock"),
        ("ipc://..", "the socket path has no file name: write ipc:///directory/name.sock"),
        (
            "ipc://*",
            "ZeroMQ replaces the file name `*` by a random one: write ipc:///directory/name.sock",
        ),
        (
            "ipc:///tmp/*",
            "ZeroMQ replaces the file name `*` by a random one: write ipc:///directory/name.sock",
        ),
        ("ipc://@", "the socket name is missing: write ipc://@NAME"),
        (
            "ipc:///a\0b",
            "a socket path cannot contain a NUL byte: write ipc:///directory/name.sock",
        ),
        ("ipc://@a\0", "a socket path cannot contain a NUL byte: write ipc:///directory/name.sock"),
        (
            &long,
            "the socket path has 108 bytes, and at most 107 are possible: choose a shorter one",
        ),
        (
            &long_name,
            "the socket path has 108 bytes, and at most 107 are possible: choose a shorter one",
        ),
    ] {
        assert_eq!(address(text).unwrap_err().to_string(), message, "{text:?}");
        assert_eq!(listen_address(text).unwrap_err(), address(text).unwrap_err(), "{text:?}");
    }
    for transport in ["inproc", "udp", "pgm", "ws", "tipc", "http"] {
        let error = AddressError::Transport { transport: transport.to_owned() };
        assert_eq!(address(&format!("{transport}://x:1")), Err(error));
    }
}

#[test]
fn a_port_is_a_number_of_a_tcp_port() {
    for text in ["tcp://host", "tcp://host:", "tcp://[::1]", "tcp://[::1]:", "tcp://"] {
        assert_eq!(address(text), Err(AddressError::NoPort), "{text}");
        assert_eq!(listen_address(text), Err(AddressError::NoPort), "{text}");
    }
    for port in ["65536", "99999", "-1", "+5550", "0x10", "5550/x", "5550 ", "http", "٣", "5*"] {
        let error = AddressError::Port { port: port.to_owned() };
        assert_eq!(address(&format!("tcp://10.0.0.1:{port}")), Err(error.clone()));
        assert_eq!(listen_address(&format!("tcp://10.0.0.1:{port}")), Err(error));
    }
    for port in ["0", "00", "*"] {
        let error = address(&format!("tcp://host:{port}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{port:?} is not a port: write tcp://HOST:PORT with a number from 1 to 65535")
        );
    }
}

#[test]
fn a_client_needs_the_name_or_address_of_one_host() {
    let long_label = "h".repeat(64);
    let long_name = vec!["h".repeat(63); 4].join(".") + ".local";
    for host in [
        "a b",
        "\t",
        "a\0",
        "a/b",
        "a;b",
        "a..b",
        ".",
        "..",
        ".a",
        "größe",
        "1.2.3",
        "1.2.3.4.5",
        "300.1.1.1",
        "5550",
        "[]",
        "[x]",
        "[::1",
        "::1]",
        "[fe80::1%]",
        "[fe80::1%a b]",
        "[::g]",
        "[1.2.3.4%eth0]",
        &long_label,
        &long_name,
    ] {
        let error = address(&format!("tcp://{host}:5550")).unwrap_err();
        let is_without_brackets = !host.starts_with('[') || !host.ends_with(']');
        if host.contains(':') && is_without_brackets {
            assert_eq!(error, AddressError::NoBrackets { host: host.to_owned() });
        } else {
            assert_eq!(error, AddressError::Host { host: host.to_owned() });
        }
    }
    for (text, message) in [
        ("tcp://:5550", "the host is missing: write tcp://HOST:PORT"),
        (
            "tcp://*:5550",
            "`*` means all addresses of a machine, and only a daemon can listen there: write \
             tcp://HOST:PORT",
        ),
        (
            "tcp://::1:5550",
            "\"::1\" has a colon, and an IPv6 address needs brackets: write tcp://[IPV6]:PORT, \
             such as tcp://[::1]:5550",
        ),
        (
            "tcp://10.0.0.5.:5550",
            "\"10.0.0.5.\" is neither a host name nor an IP address: write tcp://HOST:PORT",
        ),
    ] {
        assert_eq!(address(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_daemon_needs_an_ip_address_of_its_machine() {
    assert_eq!(listen_address("tcp://:5555"), Err(AddressError::NoHost));
    for host in ["eth0", "example.org", "1.2.3", "[fe80::1%eth0]", "[]"] {
        let error = listen_address(&format!("tcp://{host}:5555")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{host:?} is not an IP address: write tcp://127.0.0.1:PORT, or tcp://*:PORT for \
                 all addresses of this machine"
            )
        );
    }
}

/// Texts that are often addresses.
fn address_like() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-zA-Z0-9._-]{1,20}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        Just("*".to_owned()),
        "\\PC{0,10}",
    ];
    prop_oneof![
        "(ipc|tcp|ws)?(://)?\\PC{0,120}",
        "ipc://@?[a-z/.*]{0,110}",
        (host, any::<u16>()).prop_map(|(host, port)| format!("tcp://{host}:{port}")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_an_address_or_has_an_error(text in any::<String>(), like in address_like()) {
        for text in [&text, &like] {
            for error in [address(text).err(), listen_address(text).err()].into_iter().flatten() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn an_address_is_parsed_from_its_own_text(text in address_like()) {
        if let Ok(parsed) = address(&text) {
            prop_assert_eq!(address(parsed.as_str()), Ok(parsed.clone()));
            prop_assert_eq!(parsed.to_string(), parsed.as_str());
        }
        if let Ok(parsed) = listen_address(&text) {
            prop_assert_eq!(listen_address(parsed.as_str()), Ok(parsed.clone()));
            prop_assert_eq!(parsed.to_string(), parsed.as_str());
        }
    }

    #[test]
    fn a_client_can_connect_to_what_a_daemon_binds(ip: SocketAddr) {
        prop_assume!(ip.port() != 0);
        let bound = ListenAddress::from(SocketAddr::new(ip.ip(), ip.port()));
        let connected = address(bound.as_str()).unwrap();
        prop_assert_eq!(connected.as_str(), bound.as_str());
        prop_assert!(matches!(connected.target(), ConnectTarget::Ip(_)));
    }
}
