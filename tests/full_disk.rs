//! A state file on a disk that fills up and gets free space again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo};
use cortex_tests::daemon::DaemonBuilder;
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::topic;
use cortex_tests::process::Process;
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::report_skipped;
use cortex_tests::test_dir::TestDir;
use rustix::process::Signal;

/// A small tmpfs in the mount namespace of a child process. It vanishes when the process ends.
struct SmallDisk {
    process: Process,
    mount_point: PathBuf,
}

impl SmallDisk {
    /// Returns `None` if this process cannot mount.
    fn mount(test_dir: &TestDir, size: &str) -> Option<Self> {
        let mount_point = test_dir.path("disk");
        fs::create_dir(&mount_point).unwrap();
        let script = r#"mount -t tmpfs -o "size=$1,mode=700" none "$2" && echo mounted && cat"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", size]).arg(&mount_point);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Process::spawn(&mut command);
        let is_mounted = eventually("the mount succeeds or fails", TIMEOUT, || {
            let mounted = process.stdout_so_far().contains("mounted");
            (mounted || !process.stderr_so_far().is_empty()).then_some(mounted)
        });
        is_mounted.then_some(Self { process, mount_point })
    }

    /// The path of the disk, seen from outside the namespace.
    fn root(&self) -> PathBuf {
        let pid = self.process.pid().as_raw_nonzero();
        let inside = self.mount_point.strip_prefix("/").unwrap();
        Path::new(&format!("/proc/{pid}/root")).join(inside)
    }

    /// A daemon whose state file is on this disk.
    fn daemon_builder(&self, test_dir: &TestDir) -> DaemonBuilder {
        let pid = self.process.pid().as_raw_nonzero();
        let enter = format!(r#"exec nsenter --mount=/proc/{pid}/ns/mnt "$0" "$@""#);
        let state = self.mount_point.join("topics.db");
        DaemonBuilder::at(test_dir).args([Path::new("--state"), &state]).shell_prelude(&enter)
    }

    /// Writes until no byte fits.
    fn fill(&self) {
        let mut file = File::create(self.root().join("ballast")).unwrap();
        for piece in [64 * 1024, 4096, 512, 1] {
            while file.write_all(&vec![b'x'; piece]).is_ok() {}
        }
    }

    fn free_space(&self) {
        fs::remove_file(self.root().join("ballast")).unwrap();
    }
}

fn large_register(name: &str) -> DiscoveryRequest {
    let info = TopicInfo { message_type: "t".repeat(1000), ..topic(name, "node") };
    DiscoveryRequest::register(info)
}

fn request(peer: &mut RawPeer, request: &DiscoveryRequest) -> DiscoveryResponse {
    peer.request(request).unwrap()
}

fn list(peer: &mut RawPeer) -> Vec<String> {
    let list = request(peer, &DiscoveryRequest::list());
    list.topics.iter().map(|topic| topic.name.to_string()).collect()
}

#[test]
fn on_a_full_disk_the_daemon_refuses_changes_answers_lookups_and_loses_no_acknowledged_change() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "512k") else {
        report_skipped("mounting a disk needs root and `unshare --mount`");
        return;
    };
    let builder = disk.daemon_builder(&test_dir);
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let name = format!("/{round}/{number}");
            let reply = request(&mut peer, &large_register(&name));
            assert_eq!(reply.status, DiscoveryStatus::Ok, "{}", reply.message);
            acknowledged.push(name);
        }
        disk.fill();
        // The files that SQLite has allocated still have space for some topics.
        let mut refusal = None;
        for number in 5..500 {
            let name = format!("/{round}/{number}");
            let reply = request(&mut peer, &large_register(&name));
            if reply.status == DiscoveryStatus::Ok {
                acknowledged.push(name);
            } else {
                assert_eq!(reply.status, DiscoveryStatus::Error, "{}", reply.message);
                refusal = Some(reply);
                break;
            }
        }
        let refusal = refusal.expect("a full disk takes no 500 topics");
        assert!(refusal.message.contains("not registered"), "{}", refusal.message);
        assert!(refusal.message.contains("state file"), "{}", refusal.message);
        daemon.process().stderr_line("an error about the state file", |line| {
            (line.contains("ERROR") && line.contains("state file")).then_some(())
        });

        for _ in 0..10 {
            assert_eq!(
                request(&mut peer, &large_register("/no/room")).status,
                DiscoveryStatus::Error
            );
            assert_eq!(list(&mut peer), acknowledged);
            let first = request(&mut peer, &DiscoveryRequest::lookup("/0/0"));
            assert_eq!(first.status, DiscoveryStatus::Ok);
            peer.ping().unwrap();
        }
        let removal = request(&mut peer, &DiscoveryRequest::unregister("/0/0"));
        assert_eq!(removal.status, DiscoveryStatus::Error, "{}", removal.message);
        assert!(removal.message.contains("not unregistered"), "{}", removal.message);

        disk.free_space();
        let name = format!("/{round}/again");
        let reply = request(&mut peer, &large_register(&name));
        assert_eq!(
            reply.status,
            DiscoveryStatus::Ok,
            "refused after space was freed: {}",
            reply.message
        );
        acknowledged.push(name);
        assert_eq!(list(&mut peer), acknowledged);
    }

    // Kill the daemon while the disk is full.
    disk.fill();
    while request(&mut peer, &large_register(&format!("/last/{}", acknowledged.len()))).status
        == DiscoveryStatus::Ok
    {
        acknowledged.push(format!("/last/{}", acknowledged.len()));
    }
    assert_eq!(daemon.kill().signal, Some(9));
    disk.free_space();
    let daemon = builder.start();
    assert_eq!(list(&mut daemon.raw_peer()), acknowledged);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_daemon_that_starts_on_a_full_disk_reports_it_or_serves_the_stored_topics() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "256k") else {
        report_skipped("mounting a disk needs root and `unshare --mount`");
        return;
    };
    disk.fill();
    let builder = disk.daemon_builder(&test_dir);
    let output = builder.run();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("topics.db"), "{}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    disk.free_space();

    let daemon = builder.start();
    assert_eq!(
        request(&mut daemon.raw_peer(), &large_register("/kept")).status,
        DiscoveryStatus::Ok
    );
    assert_eq!(daemon.kill().signal, Some(9));
    disk.fill();
    let daemon = builder.spawn();
    // SQLite may need space for another file in order to read this one.
    eventually("the daemon serves or reports an error", TIMEOUT, || {
        if let Ok(mut peer) = RawPeer::open(&test_dir.address()) {
            assert_eq!(list(&mut peer), ["/kept"]);
            daemon.signal(Signal::TERM);
            return Some(());
        }
        daemon.stderr_so_far().contains("ERROR").then_some(())
    });
    let output = daemon.wait();
    assert!(matches!(output.code, Some(0 | 1)), "{}", output.stderr);
    disk.free_space();
    assert_eq!(list(&mut builder.start().raw_peer()), ["/kept"]);
}
