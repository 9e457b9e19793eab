//! Restores the registry from the store at the start.

use std::path::PathBuf;

use cortex_proto::DecodeError;
use thiserror::Error;

use crate::config::{Config, State};
use crate::edge::clock::timestamp;
use crate::edge::credentials::own_uid;
use crate::edge::handover::wait_for_lock;
use crate::edge::processes::Host;
use crate::edge::random::random_u64;
use crate::edge::state_file::StoreError;
use crate::edge::stop::StopHandle;
use crate::edge::store::{LoadedState, MAX_HISTORY_EVENTS, Store};
use crate::peer::EndpointListener;
use crate::registry::{Access, Hold, Record, Registry, Settings, Snapshot, Write};

/// Why a daemon cannot start from its state.
#[derive(Debug, Error)]
pub enum StateError {
    /// The daemon cannot use its state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored topic is invalid.
    #[error("a stored topic is invalid: {0}")]
    Record(#[from] DecodeError),
}

/// What a daemon starts with.
pub(crate) struct Restored {
    pub(crate) store: Store,
    /// The state file; `None` if the daemon keeps topics in memory only.
    pub(crate) path: Option<PathBuf>,
    pub(crate) registry: Registry,
    /// The number of stored topics that the daemon has dropped.
    pub(crate) dropped: usize,
}

/// Opens the store and restores the registry from its content.
pub(crate) fn restore(
    config: &Config,
    host: &Host,
    stop: &StopHandle,
) -> Result<Restored, StateError> {
    let OpenedState { mut store, mut path, loaded } = open(&config.state, stop)?;
    let stored_count = loaded.as_ref().map_or(0, |loaded| loaded.snapshot.records.len());
    let is_new = loaded.is_none();
    let (snapshot, saved) = match loaded {
        Some(stored) if stored.host.boot_id == host.boot_id => resume(stored, host, &mut store),
        other => {
            let snapshot = start_epoch(other.map(|loaded| loaded.snapshot));
            let saved = store.reset(&snapshot, host);
            (snapshot, saved)
        }
    };
    if let (Err(error), Some(file)) = (saved, &path) {
        if is_new && matches!(config.state, State::FileIfUsable(_)) {
            warn_without_file(&error);
            (store, path) = (Store::none(), None);
        } else if error.is_for_lack_of_space() {
            store = Store::without_space(file, &error);
        } else {
            return Err(error.into());
        }
    }
    if store.lacks_space()
        && let Some(path) = &path
    {
        tracing::error!(
            path = %path.display(),
            "the disk of the state file is full: the daemon serves, and refuses changes until \
             there is space"
        );
    }
    let dropped = stored_count - snapshot.records.len();
    let settings = Settings {
        limits: config.limits,
        access: Access {
            daemon_uid: own_uid(),
            allow_remote_shutdown: config.allow_remote_shutdown,
        },
        probe_interval: config.probe_interval,
        unreachable_after: config.unreachable_after,
        server: concat!("cortex-discovery/", env!("CARGO_PKG_VERSION")).to_owned(),
        pid: std::process::id(),
        history: usize::try_from(MAX_HISTORY_EVENTS).unwrap_or(usize::MAX),
    };
    let registry = Registry::restore(settings, snapshot, timestamp())?;
    Ok(Restored { store, path, registry, dropped })
}

struct OpenedState {
    store: Store,
    path: Option<PathBuf>,
    loaded: Option<LoadedState>,
}

fn open(state: &State, stop: &StopHandle) -> Result<OpenedState, StoreError> {
    let without_file = || OpenedState { store: Store::none(), path: None, loaded: None };
    let path = match state {
        State::None => return Ok(without_file()),
        State::File(path) | State::FileIfUsable(path) => path,
    };
    // A daemon that is ending may not have closed the file yet.
    let (store, loaded) = match wait_for_lock(stop, StoreError::is_in_use, || Store::open(path)) {
        Ok(opened) => opened,
        Err(error) if matches!(state, State::FileIfUsable(_)) && error.is_unusable_place() => {
            warn_without_file(&error);
            return Ok(without_file());
        }
        Err(error) if error.is_for_lack_of_space() => (Store::without_space(path, &error), None),
        Err(error) => return Err(error),
    };
    Ok(OpenedState { store, path: Some(path.clone()), loaded })
}

fn warn_without_file(error: &StoreError) {
    tracing::warn!(
        "{error}. The daemon keeps topics in memory only, and loses them when it ends: give \
         another file with --state, or use --no-state to start without this warning"
    );
}

/// Goes on with a state of this boot. The topics stay; the history goes on if nothing of it is lost.
fn resume(
    stored: LoadedState,
    host: &Host,
    store: &mut Store,
) -> (Snapshot, Result<(), StoreError>) {
    let LoadedState { mut snapshot, host: stored_host, history_loss } = stored;
    let is_other_pid_namespace = stored_host.pid_namespace != host.pid_namespace;
    if is_other_pid_namespace {
        // There the stored pids mean nothing.
        snapshot.records.iter_mut().for_each(forget_processes);
    }
    if let Some(reason) = history_loss {
        tracing::warn!(
            topics = snapshot.records.len(),
            "the state file does not hold the whole history: {reason}. The topics stay, and a new \
             history begins"
        );
        snapshot = Snapshot { epoch: random_u64(), history: Vec::new(), ..snapshot };
        let saved = store.reset(&snapshot, host);
        return (snapshot, saved);
    }
    if is_other_pid_namespace {
        let write = |record: &Record| Write {
            name: record.name.clone(),
            record: Some(record.clone()),
            event: None,
        };
        let saved = store.save_host(host, &snapshot.records.iter().map(write).collect::<Vec<_>>());
        return (snapshot, saved);
    }
    (snapshot, Ok(()))
}

/// Starts a new epoch after a boot, or without a stored state. Only static topics stay: a boot ends
/// all processes, and other programs may have the endpoints now.
fn start_epoch(stored: Option<Snapshot>) -> Snapshot {
    let mut snapshot = stored.unwrap_or_default();
    let before = snapshot.records.len();
    snapshot.records.retain(|record| record.hold == Hold::Static);
    if before > 0 {
        let kept = snapshot.records.len();
        tracing::info!(
            kept,
            dropped = before - kept,
            "the machine has rebooted: only static topics stay"
        );
    }
    for record in &mut snapshot.records {
        (record.process, record.listener) = (None, None);
    }
    Snapshot { epoch: random_u64(), history: Vec::new(), ..snapshot }
}

/// Removes what named a process by its pid.
fn forget_processes(record: &mut Record) {
    record.process = None;
    record.listener =
        record.listener.filter(|listener| matches!(listener, EndpointListener::Socket(_)));
}

#[cfg(test)]
mod tests {
    use cortex_proto::TopicName;

    use super::*;
    use crate::edge::store::HistoryLoss;
    use crate::peer::Process;

    fn record(name: &str, hold: Hold) -> Record {
        Record {
            name: TopicName::new(name).unwrap(),
            order: 3,
            packed: [].into(),
            revision: 5,
            changed_ms: 0,
            uid: Some(1),
            process: Some(Process { pid: 10, start_time: 20 }),
            is_local: true,
            listener: None,
            hold,
            found_alive: true,
        }
    }

    fn stored() -> Snapshot {
        let process = Process { pid: 10, start_time: 20 };
        let session = Hold::Session { id: "s".into(), lease_ms: 10_000 };
        let records = vec![
            Record {
                listener: Some(EndpointListener::Process(process)),
                ..record("/process", Hold::Process)
            },
            Record {
                listener: Some(EndpointListener::Socket(5)),
                ..record("/static", Hold::Static)
            },
            record("/session", session),
        ];
        Snapshot { epoch: 7, revision: 9, records, history: Vec::new() }
    }

    #[test]
    fn each_new_state_has_a_new_epoch() {
        let (one, other) = (start_epoch(None), start_epoch(None));
        assert_ne!(one.epoch, other.epoch);
        assert_eq!((one.revision, one.records.len()), (0, 0));
    }

    #[test]
    fn after_a_boot_only_static_topics_stay_in_another_epoch() {
        let snapshot = start_epoch(Some(stored()));
        assert_ne!(snapshot.epoch, 7);
        let expected = Record { process: None, ..record("/static", Hold::Static) };
        assert_eq!((snapshot.revision, snapshot.records), (9, vec![expected]));
    }

    fn resumed(pid_namespace: u64, history_loss: Option<HistoryLoss>) -> Snapshot {
        let host = |inode| Host { boot_id: Some("boot".into()), pid_namespace: Some(inode) };
        let stored = LoadedState { snapshot: stored(), host: host(1), history_loss };
        let (snapshot, saved) = resume(stored, &host(pid_namespace), &mut Store::none());
        saved.unwrap();
        snapshot
    }

    #[test]
    fn in_another_pid_namespace_all_topics_stay_without_their_processes() {
        assert_eq!(resumed(1, None), stored());
        let snapshot = resumed(2, None);
        assert_eq!((snapshot.epoch, snapshot.revision, snapshot.records.len()), (7, 9, 3));
        assert!(snapshot.records.iter().all(|record| record.process.is_none()));
        let listeners: Vec<_> = snapshot.records.iter().map(|record| record.listener).collect();
        assert_eq!(listeners, [None, Some(EndpointListener::Socket(5)), None]);
    }

    #[test]
    fn without_the_whole_history_all_topics_stay_in_another_epoch() {
        let snapshot = resumed(1, Some(HistoryLoss::Gap));
        assert_ne!(snapshot.epoch, 7);
        assert_eq!((snapshot.revision, snapshot.records), (9, stored().records));
        let elsewhere = resumed(2, Some(HistoryLoss::Gap));
        assert!(elsewhere.records.iter().all(|record| record.process.is_none()));
    }
}
