//! From an endpoint's address to what a probe connects to, from its owner's point of view.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use cortex_proto::{ListenAddress, ListenTarget, MAX_SOCKET_PATH};

use crate::peer::{PeerIdentity, Process};
use crate::registry::UnknownReason;

/// Where subscribers and publishers of one host meet, unless configured otherwise.
const DEFAULT_TOPICS_FOLDER: &str = "/tmp/cortex/topics";
const LOOPBACK_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// What a probe connects to. Equal targets share a probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// The addresses of one listener: when one refuses, the probe tries the next.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket without a file.
    Abstract(String),
    /// An absolute path.
    Path(String),
    /// A path below the working directory of a process.
    RelativePath(Process, String),
    /// A name that the system's resolver knows.
    HostName {
        name: String,
        port: u16,
        /// Whether the owner shares the daemon's network namespace.
        is_local: bool,
        /// Whether it is the name of the daemon's own host.
        is_own: bool,
    },
}

impl Target {
    /// The target of an endpoint's address.
    ///
    /// # Errors
    /// Why the daemon cannot judge the address.
    pub(super) fn of(address: &str, owner: &PeerIdentity) -> Result<Self, UnknownReason> {
        if let Some(path) = address.strip_prefix("ipc://") {
            parse_unix(path, owner)
        } else if let Some(text) = address.strip_prefix("tcp://") {
            parse_tcp(text, owner.is_local, own_host_name)
        } else {
            Err(UnknownReason::Address)
        }
    }

    /// Whether it is the daemon's own host name.
    pub(super) fn is_own_name(&self) -> bool {
        matches!(self, Self::HostName { is_own: true, .. })
    }

    /// Where a host name's listener may be, in the order of the attempts. libzmq connects to the
    /// first IPv4 address. A publisher that names its own host may listen at any of its addresses.
    ///
    /// # Errors
    /// When the name means another address for the owner than for the daemon.
    pub(super) fn resolved(&self, found: &[IpAddr]) -> Result<Vec<SocketAddr>, UnknownReason> {
        let Self::HostName { port, is_local, is_own, .. } = *self else {
            return Err(UnknownReason::Address);
        };
        let mut addresses = Vec::new();
        if is_own {
            addresses.push(LOOPBACK_V4);
            addresses.extend(found.iter().take(4));
            addresses.push(LOOPBACK_V6);
        } else {
            let first = found.iter().find(|ip| ip.is_ipv4()).or_else(|| found.first());
            let &first = first.ok_or(UnknownReason::HostName)?;
            if !is_local && is_own_network(first) {
                return Err(UnknownReason::Namespace);
            }
            addresses.push(first);
        }
        let mut unique: Vec<SocketAddr> = Vec::new();
        for address in addresses.into_iter().map(|ip| SocketAddr::new(ip, port)) {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        Ok(unique)
    }
}

/// The folders whose paths the daemon and all its local peers see alike: its socket's folder, where
/// the peers have found it, and the folder of the topics' sockets.
#[derive(Clone, Debug)]
pub(crate) struct SharedFolders(Vec<PathBuf>);

impl SharedFolders {
    /// The shared folders of a daemon that listens at these addresses.
    pub(crate) fn of(addresses: &[ListenAddress]) -> Self {
        let folder = |address: &ListenAddress| match address.target() {
            ListenTarget::Path(path) => {
                std::path::absolute(path).ok()?.parent().map(Path::to_path_buf)
            }
            ListenTarget::Abstract(_) | ListenTarget::Tcp(_) => None,
        };
        let folders = addresses.iter().filter_map(folder);
        Self(folders.chain([PathBuf::from(DEFAULT_TOPICS_FOLDER)]).collect())
    }

    pub(super) fn contain(&self, path: &str) -> bool {
        let path = Path::new(path);
        let is_plain = !path.components().any(|part| part == Component::ParentDir);
        is_plain && self.0.iter().any(|folder| path.starts_with(folder))
    }
}

/// A path means the same to the daemon and to a peer of this host only: not to one of another
/// machine, and an abstract name only within one network namespace.
fn parse_unix(path: &str, owner: &PeerIdentity) -> Result<Target, UnknownReason> {
    // The kernel allows one byte more for abstract names; libzmq does not.
    if path.is_empty() || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        return Err(UnknownReason::Address);
    }
    if let Some(name) = path.strip_prefix('@') {
        return match name {
            "" => Err(UnknownReason::Address),
            _ if !owner.is_local => Err(UnknownReason::Namespace),
            name => Ok(Target::Abstract(name.to_owned())),
        };
    }
    if path.starts_with('/') {
        let may_be_remote = owner.uid.is_none() && !owner.is_local;
        return if may_be_remote {
            Err(UnknownReason::Namespace)
        } else {
            Ok(Target::Path(path.to_owned()))
        };
    }
    match owner.process {
        Some(process) if path != "*" => Ok(Target::RelativePath(process, path.to_owned())),
        _ => Err(UnknownReason::Address),
    }
}

fn parse_tcp(
    text: &str,
    is_local: bool,
    own_host_name: impl FnOnce() -> Option<String>,
) -> Result<Target, UnknownReason> {
    let (host, port) = text.rsplit_once(':').ok_or(UnknownReason::Address)?;
    let port: u16 = port.parse().map_err(|_| UnknownReason::Address)?;
    if port == 0 {
        return Err(UnknownReason::Address);
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ips = match bare.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => vec![LOOPBACK_V4],
        // A socket at the IPv6 wildcard usually serves both.
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => vec![LOOPBACK_V6, LOOPBACK_V4],
        Ok(ip) => vec![ip],
        Err(_) if bare == "*" || bare.eq_ignore_ascii_case("localhost") => {
            vec![LOOPBACK_V4, LOOPBACK_V6]
        }
        Err(_) => return parse_host_name(bare, port, is_local, own_host_name),
    };
    if !is_local && ips.iter().any(|&ip| is_own_network(ip)) {
        return Err(UnknownReason::Namespace);
    }
    Ok(Target::Tcp(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()))
}

fn parse_host_name(
    name: &str,
    port: u16,
    is_local: bool,
    own_host_name: impl FnOnce() -> Option<String>,
) -> Result<Target, UnknownReason> {
    const MAX_HOST_NAME: usize = 255;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > MAX_HOST_NAME || !name.bytes().all(is_valid) {
        return Err(UnknownReason::Address);
    }
    let name = name.to_ascii_lowercase();
    let is_own = own_host_name().is_some_and(|own| is_name_of_host(&name, &own));
    if is_own && !is_local {
        return Err(UnknownReason::Namespace);
    }
    Ok(Target::HostName { name, port, is_local, is_own })
}

/// Whether a name is a host's own: the whole one, the first part, or the one of multicast DNS.
fn is_name_of_host(name: &str, own: &str) -> bool {
    let own = own.to_ascii_lowercase();
    let first = own.split('.').next().unwrap_or_default();
    !first.is_empty() && [own.as_str(), first, &format!("{first}.local")].contains(&name)
}

#[cfg(target_os = "linux")]
fn own_host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

#[cfg(not(target_os = "linux"))]
fn own_host_name() -> Option<String> {
    None
}

/// Whether an address belongs to each network namespace alike.
fn is_own_network(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: PeerIdentity = PeerIdentity { uid: Some(1), process: None, is_local: true };
    const CONTAINER: PeerIdentity = PeerIdentity { uid: Some(1), process: None, is_local: false };
    const REMOTE: PeerIdentity = PeerIdentity { uid: None, process: None, is_local: false };

    fn tcp(addresses: &[&str]) -> Target {
        Target::Tcp(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn addresses_of_every_network_namespace_are_judged_for_local_owners_only() {
        for (address, expected) in [
            ("tcp://127.0.0.1:5", &["127.0.0.1:5"][..]),
            ("tcp://127.8.0.1:5", &["127.8.0.1:5"]),
            ("tcp://[::1]:5", &["[::1]:5"]),
            ("tcp://::1:5", &["[::1]:5"]),
            ("tcp://[::ffff:127.0.0.1]:5", &["127.0.0.1:5"]),
            ("tcp://0.0.0.0:5", &["127.0.0.1:5"]),
            ("tcp://[::ffff:0.0.0.0]:5", &["127.0.0.1:5"]),
            ("tcp://*:5", &["127.0.0.1:5", "[::1]:5"]),
            ("tcp://localhost:5", &["127.0.0.1:5", "[::1]:5"]),
            ("tcp://LocalHost:5", &["127.0.0.1:5", "[::1]:5"]),
            ("tcp://[::]:5", &["[::1]:5", "127.0.0.1:5"]),
        ] {
            assert_eq!(Target::of(address, &LOCAL), Ok(tcp(expected)), "{address}");
            for owner in [CONTAINER, REMOTE] {
                let namespace = Err(UnknownReason::Namespace);
                assert_eq!(Target::of(address, &owner), namespace, "{address}");
            }
        }
    }

    #[test]
    fn other_ip_addresses_mean_the_same_to_all() {
        for (address, expected) in [
            ("tcp://192.168.1.2:5555", "192.168.1.2:5555"),
            ("tcp://[2001:db8::1]:5555", "[2001:db8::1]:5555"),
        ] {
            for owner in [LOCAL, CONTAINER, REMOTE] {
                assert_eq!(Target::of(address, &owner), Ok(tcp(&[expected])));
            }
        }
    }

    #[test]
    fn the_own_host_name_is_loopback_and_more() {
        let own = || Some("Robot.example".to_owned());
        for name in ["robot", "robot.example", "ROBOT", "robot.local"] {
            let target = parse_tcp(&format!("{name}:5"), true, own).unwrap();
            let found = ["127.0.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
            assert_eq!(
                target.resolved(&found).map(Target::Tcp),
                Ok(tcp(&["127.0.0.1:5", "127.0.1.1:5", "10.0.0.1:5", "[::1]:5"]))
            );
            assert_eq!(target.resolved(&[]).map(Target::Tcp), Ok(tcp(&["127.0.0.1:5", "[::1]:5"])));
            let container = parse_tcp(&format!("{name}:5"), false, own);
            assert_eq!(container, Err(UnknownReason::Namespace));
        }
    }

    #[test]
    fn other_host_names_lead_to_their_first_ipv4_address() {
        let own = || Some("robot".to_owned());
        let found = ["2001:db8::1", "10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        for is_local in [true, false] {
            let target = parse_tcp("camera-1.local:5", is_local, own).unwrap();
            assert_eq!(target.resolved(&found).map(Target::Tcp), Ok(tcp(&["10.0.0.1:5"])));
            assert_eq!(
                target.resolved(&found[..1]).map(Target::Tcp),
                Ok(tcp(&["[2001:db8::1]:5"]))
            );
            assert_eq!(target.resolved(&[]), Err(UnknownReason::HostName));
            let loopback = target.resolved(&[LOOPBACK_V4]).map(Target::Tcp);
            if is_local {
                assert_eq!(loopback, Ok(tcp(&["127.0.0.1:5"])));
            } else {
                assert_eq!(loopback, Err(UnknownReason::Namespace));
            }
        }
    }

    #[test]
    fn paths_are_judged_for_peers_of_this_host() {
        let path = Ok(Target::Path("/tmp/s".to_owned()));
        assert_eq!(Target::of("ipc:///tmp/s", &LOCAL), path);
        assert_eq!(Target::of("ipc:///tmp/s", &CONTAINER), path);
        let local_tcp = PeerIdentity { uid: None, ..LOCAL };
        assert_eq!(Target::of("ipc:///tmp/s", &local_tcp), path);
        assert_eq!(Target::of("ipc:///tmp/s", &REMOTE), Err(UnknownReason::Namespace));
        assert_eq!(Target::of("ipc://@s", &LOCAL), Ok(Target::Abstract("s".to_owned())));
        assert_eq!(Target::of("ipc://@s", &CONTAINER), Err(UnknownReason::Namespace));
    }

    #[test]
    fn a_relative_path_needs_its_process() {
        let process = Process { pid: 7, start_time: 8 };
        let owner = PeerIdentity { process: Some(process), ..LOCAL };
        let target = Ok(Target::RelativePath(process, "run/s".to_owned()));
        assert_eq!(Target::of("ipc://run/s", &owner), target);
        assert_eq!(Target::of("ipc://run/s", &LOCAL), Err(UnknownReason::Address));
    }

    #[test]
    fn addresses_that_no_peer_can_connect_to_are_not_probed() {
        let long = format!("ipc:///{}", "x".repeat(MAX_SOCKET_PATH));
        let long_name = format!("ipc://@{}", "x".repeat(MAX_SOCKET_PATH));
        let process = Some(Process { pid: 7, start_time: 8 });
        let owner = PeerIdentity { process, ..LOCAL };
        for address in [
            "",
            "nonsense",
            "/tmp/s",
            "ipc",
            "ipc://",
            "ipc://*",
            "ipc://@",
            "ipc:///tmp/a\0b",
            "ipc://@a\0b",
            "IPC:///tmp/s",
            "inproc://a",
            "pgm://eth0;239.192.1.1:5555",
            "udp://127.0.0.1:5555",
            "ws://127.0.0.1:5555",
            "tcp://",
            "tcp://:5555",
            "tcp://*:*",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:*",
            "tcp://127.0.0.1:65536",
            "tcp://127.0.0.1:5555/path",
            "tcp://127.0.0.1:5555;127.0.0.1:5556",
            "tcp://[fe80::1%eth0]:5555",
            &long,
            &long_name,
        ] {
            assert_eq!(Target::of(address, &owner), Err(UnknownReason::Address), "{address}");
        }
    }

    #[test]
    fn the_folders_of_the_daemons_sockets_are_shared() {
        let addresses = ["ipc:///run/cortex/discovery.sock", "tcp://127.0.0.1:7"];
        let folders = SharedFolders::of(&addresses.map(|address| address.parse().unwrap()));
        for path in ["/run/cortex/x.sock", "/run/cortex/topics/x.sock", "/tmp/cortex/topics/x"] {
            assert!(folders.contain(path), "{path}");
        }
        for path in ["/run/x.sock", "/tmp/x", "/run/cortex/../x.sock", "/run/cortex2/x"] {
            assert!(!folders.contain(path), "{path}");
        }
    }
}
