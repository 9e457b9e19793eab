//! Probes: the helper process in which they may hang, and what other namespaces mean for them.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, DiscoveryStatus, EndpointState, EntryExt, RequestExt};
use cortex_tests::daemon::{Daemon, DaemonBuilder};
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::publisher_host::{Endpoint, Publisher, PublisherHost, PublisherSpec};
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::test_dir::{TestDir, ipc_address};
use cortex_tests::{report_measurement, report_skipped};
use rustix::process::{Pid, Signal, kill_process};

/// The requirement is 50 ms; a busy machine gets some more.
const MAX_PING: Duration = Duration::from_millis(250);
/// The requirement is 100 ms.
const MAX_END: Duration = Duration::from_millis(500);
/// After this time a helper that does not answer is given up.
const HELPER_TIMEOUT: Duration = Duration::from_secs(2);

fn daemon_with_fast_probes() -> DaemonBuilder {
    DaemonBuilder::at(&TestDir::new()).args(["--probe-interval", "100ms"])
}

fn entry(peer: &mut RawPeer, name: &str) -> Option<EntryExt> {
    let describe = DiscoveryRequest::lookup(name).with_ext(RequestExt::default());
    let response = peer.request(&describe).unwrap();
    assert_ne!(response.status, DiscoveryStatus::Error, "{}", response.message);
    response.ext.unwrap().entry
}

fn wait_until_alive(peer: &mut RawPeer, name: &str) {
    eventually("the daemon judges the publisher alive", TIMEOUT, || {
        entry(peer, name).filter(|entry| entry.endpoint == EndpointState::Alive)
    });
}

/// A daemon that probes a publisher's path all the time, since it registered over TCP.
fn probed_publisher() -> (Daemon, PublisherHost, Publisher) {
    let daemon = daemon_with_fast_probes().with_tcp().start();
    let [_, tcp] = daemon.addresses() else { panic!("two addresses") };
    let mut host = PublisherHost::start(tcp);
    let address = ipc_address(&daemon.test_dir().path("data.sock"));
    let publisher = host.start_publisher("node", &address, &["/probed"]);
    publisher.assert_registered();
    wait_until_alive(&mut daemon.raw_peer(), "/probed");
    (daemon, host, publisher)
}

fn parent_of(pid: Pid) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

/// The running children of the daemon, which are its probe helpers.
fn helpers(daemon: &Daemon) -> Vec<Pid> {
    let parent = daemon.process().pid().as_raw_nonzero().get();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn only_helper(daemon: &Daemon) -> Pid {
    let helpers = helpers(daemon);
    let [helper] = helpers.as_slice() else { panic!("the daemon has the helpers {helpers:?}") };
    *helper
}

fn is_running(pid: Pid) -> bool {
    parent_of(pid).is_some()
}

#[test]
fn a_helper_that_hangs_delays_nobody_and_is_replaced() {
    let (daemon, _host, publisher) = probed_publisher();
    let mut peer = daemon.raw_peer();
    let helper = only_helper(&daemon);
    kill_process(helper, Signal::STOP).unwrap();
    let mut slowest = Duration::ZERO;
    let stopped = Instant::now();
    while is_running(helper) {
        let sent = Instant::now();
        peer.ping().unwrap();
        slowest = slowest.max(sent.elapsed());
        assert!(stopped.elapsed() < TIMEOUT, "the daemon does not give the helper up");
    }
    report_measurement(&format!(
        "given up after {:?}, slowest PING {slowest:?}",
        stopped.elapsed()
    ));
    assert!(slowest < MAX_PING, "{slowest:?}");
    assert!(stopped.elapsed() > HELPER_TIMEOUT / 2, "{:?}", stopped.elapsed());
    daemon.process().stderr_line("the replacement", |line| {
        (line.contains("WARN") && line.contains("probe helper")).then_some(())
    });
    assert!(entry(&mut peer, "/probed").is_some(), "what is unknown evicts no topic");
    let next = eventually("another helper runs", TIMEOUT, || helpers(&daemon).first().copied());
    assert_ne!(next, helper);
    publisher.signal(Signal::KILL);
}

#[test]
fn a_helper_that_was_killed_is_replaced() {
    let (daemon, _host, publisher) = probed_publisher();
    let mut peer = daemon.raw_peer();
    let helper = only_helper(&daemon);
    kill_process(helper, Signal::KILL).unwrap();
    eventually("another helper runs", TIMEOUT, || {
        helpers(&daemon).into_iter().find(|pid| *pid != helper)
    });
    wait_until_alive(&mut peer, "/probed");
    publisher.signal(Signal::KILL);
    eventually("the topic is evicted", TIMEOUT, || {
        entry(&mut peer, "/probed").is_none().then_some(())
    });
}

#[test]
fn a_helper_that_hangs_does_not_delay_the_daemons_end() {
    let (daemon, _host, _publisher) = probed_publisher();
    let helper = only_helper(&daemon);
    kill_process(helper, Signal::STOP).unwrap();
    daemon.raw_peer().ping().unwrap();
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    let took = asked.elapsed();
    report_measurement(&format!("the daemon ended after {took:?}"));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(took < MAX_END, "{took:?}");
    eventually("the helper has ended", TIMEOUT, || (!is_running(helper)).then_some(()));
}

#[test]
fn the_helper_ends_with_a_killed_daemon() {
    let (daemon, _host, _publisher) = probed_publisher();
    let helper = only_helper(&daemon);
    assert_eq!(daemon.kill().signal, Some(9));
    eventually("the helper has ended", TIMEOUT, || (!is_running(helper)).then_some(()));
}

#[test]
fn the_helper_has_no_descriptor_of_the_daemon() {
    let (daemon, _host, _publisher) = probed_publisher();
    let fds = format!("/proc/{}/fd", only_helper(&daemon).as_raw_nonzero());
    let links =
        fs::read_dir(fds).unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let links: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let sockets: std::collections::BTreeSet<_> =
        links.iter().filter(|link| *link != "/dev/null").collect();
    // The socket to the daemon, and those of probes under way.
    assert!(sockets.iter().all(|link| link.starts_with("socket:")), "{links:?}");
    assert!(sockets.len() <= 3, "{links:?}");
}

#[test]
fn a_daemon_without_probes_of_paths_starts_no_helper() {
    let daemon = Daemon::start();
    let mut host = PublisherHost::start(daemon.address());
    host.start_publisher("node", "tcp://127.0.0.1:*", &["/watched"]).assert_registered();
    wait_until_alive(&mut daemon.raw_peer(), "/watched");
    assert_eq!(helpers(&daemon), []);
}

/// With 48 descriptors the daemon has four pidfds.
#[test]
fn owners_without_a_pidfd_are_polled() {
    let daemon = daemon_with_fast_probes().shell_prelude("ulimit -n 48").start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let publishers: Vec<_> = (0..7)
        .map(|number| {
            let publisher = host.start_publisher_with(&PublisherSpec {
                node: "node",
                address: &ipc_address(&daemon.test_dir().path(&format!("{number}.sock"))),
                topics: &[format!("/topic/{number}")],
                endpoint: Endpoint::OwnSocket,
                disconnects: true,
            });
            publisher.assert_registered();
            publisher
        })
        .collect();
    for (number, publisher) in publishers.iter().enumerate() {
        let name = format!("/topic/{number}");
        assert!(entry(&mut peer, &name).unwrap().pid.is_some());
        publisher.kill();
        let killed = Instant::now();
        eventually("the topic is evicted", TIMEOUT, || {
            entry(&mut peer, &name).is_none().then_some(())
        });
        report_measurement(&format!("{name} was evicted after {:?}", killed.elapsed()));
        let line = daemon.process().stderr_line("the eviction", |line| {
            let is_it = line.contains("evicted") && line.contains(&name);
            (is_it && line.contains("INFO")).then(|| line.to_owned())
        });
        assert!(line.contains("owner exited"), "{line}");
    }
}

/// A daemon of another user, which starts after these commands. `None` if that does not work here.
fn daemon_of_other_user(test_dir: &TestDir, commands: &str) -> Option<DaemonBuilder> {
    let script = format!(
        "{commands} && exec setpriv --reuid 4711 --regid 4711 --clear-groups \"$0\" \"$@\""
    );
    fs::set_permissions(test_dir.path(""), Permissions::from_mode(0o777)).unwrap();
    let builder = DaemonBuilder::at(test_dir)
        .args(["--socket-mode", "666", "--probe-interval", "100ms"])
        .shell_prelude(&format!("exec unshare --mount sh -c '{script}' \"$0\" \"$@\""));
    let mut version = builder.command();
    version.arg("--version");
    let can = version.output().is_ok_and(|output| output.status.success());
    if !can {
        report_skipped(&format!("`{commands}` or `setpriv` does not work here"));
    }
    can.then_some(builder)
}

/// The sockets of ZeroMQ are writable by their user only, and a dead one looks the same to others.
#[test]
fn an_endpoint_without_permission_is_unknown() {
    let test_dir = TestDir::new();
    let Some(builder) = daemon_of_other_user(&test_dir, "true") else { return };
    let daemon = builder.with_tcp().start();
    let [_, tcp] = daemon.addresses() else { panic!("two addresses") };
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(tcp);
    let address = ipc_address(&test_dir.path("data.sock"));
    let publisher = host.start_publisher("node", &address, &["/forbidden"]);
    publisher.assert_registered();
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let entry = entry(&mut peer, "/forbidden").unwrap();
        assert_eq!(entry.endpoint, EndpointState::Unknown);
    }
    assert_eq!(helpers(&daemon).len(), 1, "it has been probed");
}

/// With `hidepid` a daemon of another user has no start times, and a missing entry proves nothing.
#[test]
fn owners_that_proc_hides_are_watched() {
    let test_dir = TestDir::new();
    let commands = "mount -t proc -o hidepid=2 proc /proc";
    let Some(builder) = daemon_of_other_user(&test_dir, commands) else { return };
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    let mut host = PublisherHost::start(daemon.address());
    let address = ipc_address(&test_dir.path("data.sock"));
    for _ in 0..3 {
        let publisher = host.start_publisher_with(&PublisherSpec {
            node: "node",
            address: &address,
            topics: &["/hidden".to_owned()],
            endpoint: Endpoint::Unbound,
            disconnects: false,
        });
        publisher.assert_registered();
        let pid = publisher.pid.as_raw_nonzero().get().unsigned_abs();
        assert_eq!(entry(&mut peer, "/hidden").unwrap().pid, Some(u64::from(pid)));
        publisher.kill();
        let killed = Instant::now();
        eventually("the topic is evicted", TIMEOUT, || {
            entry(&mut peer, "/hidden").is_none().then_some(())
        });
        report_measurement(&format!("evicted {:?} after the kill", killed.elapsed()));
    }
}

/// A container's loopback address is not the daemon's, even if another publisher listens there.
#[test]
fn loopback_in_another_network_namespace_is_not_judged() {
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = Command::new("unshare");
    if !command.args(unshare).args(["--net", "true"]).output().is_ok_and(|o| o.status.success()) {
        return report_skipped("`unshare --net --pid --mount-proc` does not work here");
    }
    // The daemon cannot see the publishers' processes: it probes their endpoints.
    let prelude = r#"exec unshare --pid --fork --kill-child --mount-proc "$0" "$@""#;
    let daemon = daemon_with_fast_probes().shell_prelude(prelude).start();
    let mut peer = daemon.raw_peer();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    // As another publisher: it greets everybody.
    thread::spawn(move || {
        for stream in other.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"\xff"));
        }
    });

    let mut container = PublisherHost::start_in_own_network_namespace(daemon.address());
    let silent = format!("tcp://127.0.0.1:{}", unused_port());
    let names = ["/alive/elsewhere".to_owned(), "/dead/elsewhere".to_owned()];
    for (name, address) in names.iter().zip([format!("tcp://127.0.0.1:{port}"), silent]) {
        let publisher = container.start_publisher_with(&PublisherSpec {
            node: "node",
            address: &address,
            topics: std::slice::from_ref(name),
            endpoint: Endpoint::Unbound,
            disconnects: false,
        });
        publisher.assert_registered();
    }
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        for name in &names {
            let entry = entry(&mut peer, name).unwrap_or_else(|| panic!("{name} is evicted"));
            assert_eq!(entry.endpoint, EndpointState::Unknown, "{name}");
        }
    }
}

/// A port of the dynamic range that was free a moment ago.
fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
