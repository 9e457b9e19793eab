//! The helper's side: a thread for each task, which may hang.

use std::fs::DirEntry;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::message::{Report, Task, take_message};
use crate::edge::credentials::Credentials;
use crate::edge::probe::limits::{MAX_PATIENCE, SIGNATURE};
use crate::edge::probe::outcome::ProbeId;
use crate::edge::socket::unix_socket;
use crate::peer::Process;
use crate::registry::{ProbeResult, UnknownReason};

/// Enough for a resolver.
const STACK: usize = 256 * 1024;
const MAX_ADDRESSES: usize = 16;

/// Serves as the probe helper of the daemon that has started this process, with its end of a socket
/// as the standard input. Returns when that daemon closes its end.
///
/// # Errors
/// When the standard input is no such socket.
pub fn serve_probe_helper() -> io::Result<()> {
    close_inherited_descriptors();
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    serve(UnixStream::from(socket))
}

/// Closes the descriptors that the daemon has got from its parent. The daemon's own ones close when
/// the helper starts.
fn close_inherited_descriptors() {
    let numbers = |entry: io::Result<DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let open: Vec<RawFd> =
        std::fs::read_dir("/proc/self/fd").into_iter().flatten().filter_map(numbers).collect();
    for descriptor in open.into_iter().filter(|number| *number > 2) {
        // The one with which the list was read is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Serves at a socket until the other end is closed.
pub(super) fn serve(mut socket: UnixStream) -> io::Result<()> {
    let reports = Reports(Arc::new(Mutex::new(socket.try_clone()?)));
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(message) =
            take_message(&mut buffer).map_err(|_| io::ErrorKind::InvalidData)?
        {
            let (id, task) = Task::decode(&message).ok_or(io::ErrorKind::InvalidData)?;
            let of_task = reports.clone();
            let run = move || run(id, &task, &of_task);
            if std::thread::Builder::new().stack_size(STACK).spawn(run).is_err() {
                reports.send(id, &Report::Judged(FAILURE));
            }
        }
        match socket.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const FAILURE: ProbeResult = ProbeResult::Unknown(UnknownReason::Failure);
const NO_ADDRESS: ProbeResult = ProbeResult::Unknown(UnknownReason::Address);

#[derive(Clone)]
struct Reports(Arc<Mutex<UnixStream>>);

impl Reports {
    /// An error means that the daemon has ended.
    fn send(&self, id: ProbeId, report: &Report) {
        let mut message = Vec::new();
        report.encode(id, &mut message);
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&message);
    }
}

fn run(id: ProbeId, task: &Task, reports: &Reports) {
    let result = match task {
        Task::Resolve { name } => return reports.send(id, &Report::Resolved(resolve(name))),
        Task::Connect { path } => probe(path, id, reports),
        Task::ConnectFrom { process, path } => probe_from(*process, path, id, reports),
    };
    reports.send(id, &Report::Judged(result));
}

fn resolve(name: &str) -> Vec<IpAddr> {
    let addresses = (name, 0).to_socket_addrs();
    addresses.into_iter().flatten().take(MAX_ADDRESSES).map(|address| address.ip()).collect()
}

/// Probes a path as a process sees it that has a working directory of its own, and maybe a file
/// system of its own.
#[cfg(target_os = "linux")]
fn probe_from(process: Process, path: &str, id: ProbeId, reports: &Reports) -> ProbeResult {
    use std::os::fd::AsRawFd as _;

    use cortex_proto::MAX_SOCKET_PATH;
    use rustix::fs::{Mode, OFlags};

    use crate::edge::processes::identify;

    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = format!("/proc/{}/cwd", process.pid);
    let Ok(directory) = rustix::fs::open(directory, flags, Mode::empty()) else {
        return NO_ADDRESS;
    };
    if identify(process.pid) != Some(process) {
        return NO_ADDRESS;
    }
    let path = format!("/proc/self/fd/{}/{path}", directory.as_raw_fd());
    if path.len() > MAX_SOCKET_PATH {
        return NO_ADDRESS;
    }
    probe(&path, id, reports)
}

#[cfg(not(target_os = "linux"))]
fn probe_from(_: Process, _: &str, _: ProbeId, _: &Reports) -> ProbeResult {
    NO_ADDRESS
}

/// Connects twice where the first connection is closed without a byte: a listener that closes also
/// closes the connections in its backlog.
fn probe(path: &str, id: ProbeId, reports: &Reports) -> ProbeResult {
    let Ok(address) = SocketAddrUnix::new(path) else { return NO_ADDRESS };
    let mut deadline = None;
    for _ in 0..2 {
        let stream = match connect(&address) {
            Ok(stream) => stream,
            // A program listens, and its backlog is full.
            Err(Errno::AGAIN) => return ProbeResult::Silent,
            Err(error) => return result_of(error),
        };
        let pid = Credentials::of_peer(&stream).pid.unwrap_or(0);
        reports.send(id, &Report::Connected { pid });
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + MAX_PATIENCE);
        if let Some(result) = first_byte(&stream, deadline) {
            return result;
        }
    }
    ProbeResult::Silent
}

fn connect(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = unix_socket()?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// What the first byte says. `None`: the connection was closed without one.
fn first_byte(stream: &OwnedFd, deadline: Instant) -> Option<ProbeResult> {
    loop {
        let mut byte = [0; 1];
        match rustix::io::read(stream, &mut byte) {
            Ok(0) | Err(Errno::CONNRESET) => return None,
            Ok(_) if byte[0] == SIGNATURE => return Some(ProbeResult::Alive),
            Ok(_) => return Some(ProbeResult::Silent),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Some(FAILURE),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Some(ProbeResult::Silent);
        }
        let timeout = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(stream, PollFlags::IN)], timeout.as_ref());
    }
}

/// What an error of `connect` means. `ACCESS` may come from a directory on the way.
fn result_of(error: Errno) -> ProbeResult {
    match error {
        Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR => ProbeResult::Dead,
        Errno::ACCESS | Errno::PERM => ProbeResult::Unknown(UnknownReason::Permission),
        Errno::LOOP | Errno::NAMETOOLONG | Errno::PROTOTYPE | Errno::INVAL => NO_ADDRESS,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_errors_have_a_meaning() {
        for (errno, result) in [
            (Errno::CONNREFUSED, ProbeResult::Dead),
            (Errno::NOENT, ProbeResult::Dead),
            (Errno::NOTDIR, ProbeResult::Dead),
            (Errno::ACCESS, ProbeResult::Unknown(UnknownReason::Permission)),
            (Errno::PROTOTYPE, ProbeResult::Unknown(UnknownReason::Address)),
            (Errno::MFILE, ProbeResult::Unknown(UnknownReason::Failure)),
            (Errno::IO, ProbeResult::Unknown(UnknownReason::Failure)),
        ] {
            assert_eq!(result_of(errno), result, "{errno:?}");
        }
    }

    #[test]
    fn the_helper_ends_with_its_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let helper = std::thread::spawn(move || serve(theirs));
        drop(ours);
        helper.join().unwrap().unwrap();
    }
}
