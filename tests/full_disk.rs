//! A state file on a disk that fills up and gets free space again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cortex_proto::{DiscoveryRequest, DiscoveryResponse, DiscoveryStatus, TopicInfo};
use cortex_tests::daemon::DaemonBuilder;
use cortex_tests::deadline::{TIMEOUT, eventually};
use cortex_tests::messages::{hello, register_static, topic};
use cortex_tests::process::Process;
use cortex_tests::raw_peer::RawPeer;
use cortex_tests::test_dir::TestDir;
use cortex_tests::{python, report_skipped};
use rustix::process::Signal;

/// A small tmpfs in the mount namespace of a child process. It vanishes when the process ends.
struct SmallDisk {
    process: Process,
    mount_point: PathBuf,
}

impl SmallDisk {
    /// Returns `None`, and reports the test as skipped, if this process cannot mount.
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
        if !is_mounted {
            report_skipped("mounting a disk needs root and `unshare --mount`");
            return None;
        }
        Some(Self { process, mount_point })
    }

    /// The path of the disk, seen from outside the namespace.
    fn root(&self) -> PathBuf {
        let pid = self.process.pid().as_raw_nonzero();
        let inside = self.mount_point.strip_prefix("/").unwrap();
        Path::new(&format!("/proc/{pid}/root")).join(inside)
    }

    /// A daemon whose state file is on this disk.
    fn daemon_builder(&self, test_dir: &TestDir) -> DaemonBuilder {
        self.daemon_builder_with(test_dir, "true")
    }

    /// As `daemon_builder`, after `commands` in a mount namespace of the daemon's own.
    fn daemon_builder_with(&self, test_dir: &TestDir, commands: &str) -> DaemonBuilder {
        let pid = self.process.pid().as_raw_nonzero();
        let enter = format!(
            r#"exec nsenter --mount=/proc/{pid}/ns/mnt \
                unshare --mount sh -c '{commands} && exec "$0" "$@"' "$0" "$@""#
        );
        let state = self.mount_point.join("topics.db");
        DaemonBuilder::at(test_dir).args([Path::new("--state"), &state]).shell_prelude(&enter)
    }

    /// Moves everything from the log beside the state file into the file.
    fn remove_log(&self) {
        let pid = self.process.pid().as_raw_nonzero();
        let state = self.mount_point.join("topics.db");
        let script = python::script("checkpoint.py", &[state.to_str().unwrap()]);
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
        command.arg(script.get_program()).args(script.get_args());
        assert!(command.status().unwrap().success());
        assert!(!self.root().join("topics.db-wal").exists());
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
    let Some(disk) = SmallDisk::mount(&test_dir, "512k") else { return };
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

/// Waits until the daemon stores a change again.
fn wait_until_stored(peer: &mut RawPeer, name: &str) {
    eventually("the daemon stores a change", TIMEOUT, || {
        (request(peer, &large_register(name)).status == DiscoveryStatus::Ok).then_some(())
    });
}

fn assert_refuses_changes(peer: &mut RawPeer) {
    let refusal = request(peer, &large_register("/no/room"));
    assert_eq!(refusal.status, DiscoveryStatus::Error, "{}", refusal.message);
    for word in ["not registered", "topics.db"] {
        assert!(refusal.message.contains(word), "`{word}` is not in: {}", refusal.message);
    }
}

#[test]
fn a_daemon_without_a_state_file_starts_on_a_full_disk_and_saves_later() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "256k") else { return };
    disk.fill();
    let builder = disk.daemon_builder(&test_dir);
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    daemon.process().stderr_line("an error about the full disk", |line| {
        (line.contains("ERROR") && line.contains("topics.db") && line.contains("full"))
            .then_some(())
    });
    assert_refuses_changes(&mut peer);
    assert!(list(&mut peer).is_empty());
    disk.free_space();
    wait_until_stored(&mut peer, "/kept");
    assert_eq!(daemon.kill().signal, Some(9));
    assert_eq!(list(&mut builder.start().raw_peer()), ["/kept"]);
}

#[test]
fn a_default_state_file_that_does_not_exist_is_not_needed_on_a_full_disk() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "256k") else { return };
    disk.fill();
    let state_home = format!("export XDG_STATE_HOME={}", disk.root().display());
    let daemon = DaemonBuilder::at(&test_dir).shell_prelude(&state_home).start();
    daemon.process().stderr_line("a warning", |line| {
        (line.contains("WARN") && line.contains("memory")).then_some(())
    });
    assert_eq!(request(&mut daemon.raw_peer(), &large_register("/x")).status, DiscoveryStatus::Ok);
}

#[test]
fn a_daemon_starts_on_a_full_disk_with_its_topics_and_saves_later() {
    for is_killed in [false, true] {
        let test_dir = TestDir::new();
        let Some(disk) = SmallDisk::mount(&test_dir, "512k") else { return };
        let builder = disk.daemon_builder(&test_dir);
        let daemon = builder.start();
        wait_until_stored(&mut daemon.raw_peer(), "/kept");
        daemon.signal(if is_killed { Signal::KILL } else { Signal::TERM });
        let _ = daemon.wait();
        disk.fill();
        let daemon = builder.start();
        let mut peer = daemon.raw_peer();
        assert_eq!(list(&mut peer), ["/kept"], "killed: {is_killed}");
        // The files that SQLite has allocated may have space for some topics.
        let filler = (0..500).map(|number| format!("/filler/{number}"));
        let stored = filler.take_while(|name| {
            request(&mut peer, &large_register(name)).status == DiscoveryStatus::Ok
        });
        let expected: Vec<_> = std::iter::once("/kept".to_owned()).chain(stored).collect();
        assert_refuses_changes(&mut peer);
        assert_eq!(list(&mut peer), expected);
        disk.free_space();
        wait_until_stored(&mut peer, "/later");
        assert_eq!(daemon.kill().signal, Some(9));
        let after = list(&mut builder.start().raw_peer());
        assert_eq!(after, [expected, vec!["/later".to_owned()]].concat());
    }
}

#[test]
fn a_daemon_starts_where_no_file_can_be_created() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "512k,nr_inodes=8") else { return };
    let builder = disk.daemon_builder(&test_dir);
    let daemon = builder.start();
    wait_until_stored(&mut daemon.raw_peer(), "/kept");
    let before = daemon.raw_peer().request(&hello()).unwrap().ext.unwrap();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));
    // As in a backup: without SQLite's additional files, which the daemon would have to create.
    disk.remove_log();
    let mut blockers = Vec::new();
    while File::create(disk.root().join(format!("blocker-{}", blockers.len()))).is_ok() {
        blockers.push(disk.root().join(format!("blocker-{}", blockers.len())));
    }
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(list(&mut peer), ["/kept"]);
    assert_refuses_changes(&mut peer);
    for path in blockers {
        fs::remove_file(path).unwrap();
    }
    wait_until_stored(&mut peer, "/later");
    let after = daemon.raw_peer().request(&hello()).unwrap().ext.unwrap();
    assert_eq!(after.epoch, before.epoch, "nothing of the history is lost");
    assert_eq!(daemon.kill().signal, Some(9));
    assert_eq!(list(&mut builder.start().raw_peer()), ["/kept", "/later"]);
}

#[test]
fn after_a_boot_with_a_full_disk_only_static_topics_stay() {
    let test_dir = TestDir::new();
    let Some(disk) = SmallDisk::mount(&test_dir, "512k") else { return };
    let builder = disk.daemon_builder(&test_dir);
    let daemon = builder.start();
    let mut peer = daemon.raw_peer();
    for name in ["/static/a", "/static/b"] {
        let reply = request(&mut peer, &register_static(topic(name, "node")));
        assert_eq!(reply.status, DiscoveryStatus::Ok, "{}", reply.message);
    }
    wait_until_stored(&mut peer, "/process");
    let before = request(&mut peer, &hello()).ext.unwrap();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code, Some(0));

    disk.fill();
    let boot_id = test_dir.path("boot_id");
    fs::write(&boot_id, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let after_boot = disk.daemon_builder_with(
        &test_dir,
        &format!("mount --bind {} /proc/sys/kernel/random/boot_id", boot_id.display()),
    );
    let daemon = after_boot.start();
    let mut peer = daemon.raw_peer();
    assert_eq!(list(&mut peer), ["/static/a", "/static/b"]);
    assert_ne!(request(&mut peer, &hello()).ext.unwrap().epoch, before.epoch);
    assert_refuses_changes(&mut peer);
    disk.free_space();
    wait_until_stored(&mut peer, "/later");
    assert_eq!(daemon.kill().signal, Some(9));
    let after = list(&mut after_boot.start().raw_peer());
    assert_eq!(after, ["/static/a", "/static/b", "/later"]);
}
