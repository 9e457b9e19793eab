//! The versions of the tables.

/// How the files of one version hold the state.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) version: i32,
    /// The tables. A file with any others is damaged.
    pub(super) tables: [&'static str; 3],
    /// Read the rows with the present version's columns.
    pub(super) read_meta: &'static str,
    pub(super) read_topics: &'static str,
}

/// The schema of new files. Every later daemon must load a file of it: `tests/state/v2.db`.
pub(super) const PRESENT: Schema = Schema {
    version: 2,
    tables: [
        "CREATE TABLE meta (
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        boot_id TEXT,
        pid_namespace INTEGER,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        born_ns INTEGER NOT NULL
    ) STRICT",
        // Without a rowid, so that the table needs no index, which could contradict it.
        "CREATE TABLE topics (
        name TEXT PRIMARY KEY,
        place INTEGER NOT NULL,
        info BLOB NOT NULL,
        revision INTEGER NOT NULL,
        changed_ms INTEGER NOT NULL,
        uid INTEGER,
        pid INTEGER,
        start_time INTEGER,
        is_local INTEGER NOT NULL,
        listener_pid INTEGER,
        listener_start_time INTEGER,
        listener_inode INTEGER,
        hold TEXT NOT NULL,
        session_id TEXT,
        lease_ms INTEGER,
        found_alive INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID",
        "CREATE TABLE events (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        reason TEXT,
        topic_name TEXT NOT NULL,
        info BLOB NOT NULL
    ) STRICT",
    ],
    read_meta: "SELECT id, epoch, revision, boot_id, pid_namespace, device, inode, born_ns FROM meta",
    read_topics: "SELECT name, place, info, revision, changed_ms, uid, pid, start_time, is_local, \
         listener_pid, listener_start_time, listener_inode, hold, session_id, lease_ms, \
         found_alive FROM topics",
};

/// The schema of the daemon 0.1.0: `tests/state/v1.db`. Each row ends with a checksum, which later
/// versions ignore. An owner without a user is a peer over TCP, and such a peer may be anywhere.
const VERSION_1: Schema = Schema {
    version: 1,
    tables: [
        "CREATE TABLE meta (
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        boot_id TEXT,
        pid_namespace INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT",
        "CREATE TABLE topics (
        name TEXT PRIMARY KEY,
        place INTEGER NOT NULL,
        info BLOB NOT NULL,
        revision INTEGER NOT NULL,
        changed_ms INTEGER NOT NULL,
        uid INTEGER,
        pid INTEGER,
        start_time INTEGER,
        hold TEXT NOT NULL,
        session_id TEXT,
        lease_ms INTEGER,
        found_alive INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID",
        "CREATE TABLE events (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        reason TEXT,
        topic_name TEXT NOT NULL,
        info BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT",
    ],
    read_meta: "SELECT id, epoch, revision, boot_id, pid_namespace, NULL AS device, NULL AS inode, \
         NULL AS born_ns FROM meta",
    read_topics: "SELECT name, place, info, revision, changed_ms, uid, pid, start_time, \
         uid IS NOT NULL AS is_local, NULL AS listener_pid, NULL AS listener_start_time, \
         NULL AS listener_inode, hold, session_id, lease_ms, found_alive FROM topics",
};

/// The schema of a version; `None` if no daemon up to this one wrote it.
pub(super) fn of(version: i32) -> Option<&'static Schema> {
    [&PRESENT, &VERSION_1].into_iter().find(|schema| schema.version == version)
}
