//! The answer to a request: turned into bytes when what it has seen is committed.

use std::sync::Arc;
use std::time::Instant;

use cortex_proto::{
    DiscoveryStatus, EXTENSION_LEVEL, EncodedWatchExt, EntryExt, ResponseExt, Since, TopicName,
};

use super::directory::topics::{Entry, TopicList};
use super::input::Timestamp;
use super::log::Log;
use super::reply::{ReplyBody, Stats, pack, pack_topic, pack_topics, pack_watch};
use super::reply_cache::ReplyCache;
use super::settings::Settings;
use super::subscriptions::replies::{EventSelection, pack_events};
use super::view::View;
use crate::peer::PeerIdentity;

/// About how many bytes a reply takes beside its topics.
const SMALL_REPLY_BYTES: usize = 64;
/// About how many bytes the description of a topic takes.
const ENTRY_BYTES: usize = 64;

/// What a request has led to.
#[derive(Debug)]
pub(super) enum Answer {
    /// To PING.
    Pong { revision: u64, topics: u64 },
    /// To REGISTER.
    Registered { name: TopicName, revision: u64, lease_ms: Option<u64> },
    /// To REGISTER, when another node owns the topic.
    AlreadyExists { name: TopicName, node: String, owner: PeerIdentity },
    /// To UNREGISTER.
    Unregistered { name: String },
    /// To LOOKUP and WAIT; the entry is for a request with an extension.
    Found { packed: Arc<[u8]>, entry: Option<EntryExt> },
    /// To UNREGISTER, LOOKUP and WAIT.
    NotFound { name: String },
    /// To LIST; the entries are for a request with an extension.
    List { topics: TopicList, entries: Option<Vec<EntryExt>> },
    /// To WATCH.
    Events(EventSelection),
    /// To WATCH: all topics that it takes.
    Snapshot { topics: TopicList, position: Since },
    /// To RENEW.
    Renewed { lease_ms: u64, is_known: bool },
    /// To CANCEL: the number of parked requests that get no reply.
    Cancelled { count: usize },
    /// To STATS.
    Stats(Stats),
    /// To SHUTDOWN.
    ShuttingDown,
    /// To any request.
    Error { message: String, cause: ErrorCause },
}

/// Why a request gets ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCause {
    /// The request itself is wrong.
    Request,
    /// A limit is reached.
    Limit,
    /// The peer has no right to it.
    Access,
    /// The store cannot keep the change.
    Store,
}

/// What an answer needs to become a reply.
pub(super) struct ReplyContext<'a> {
    pub(super) settings: &'a Settings,
    pub(super) log: &'a Log,
    pub(super) started: Instant,
    pub(super) now: Timestamp,
}

impl Answer {
    /// An ERROR for a request that is wrong.
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), cause: ErrorCause::Request }
    }

    /// Whether it refuses a REGISTER for the sake of the topic that has the name.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. } | Self::Error { cause: ErrorCause::Access, .. })
    }

    pub(super) fn not_found(name: &str) -> Self {
        Self::NotFound { name: name.to_owned() }
    }

    /// A topic with its description.
    pub(super) fn described(entry: &Entry, unix_ms: u64) -> Self {
        let packed = Arc::clone(&entry.packed);
        Self::Found { packed, entry: Some(entry.describe(unix_ms)) }
    }

    /// The answer to a request that has been decided twice. A CANCEL has also ended what it found the
    /// first time.
    pub(super) fn added_to(self, former: Option<&Self>) -> Self {
        match (self, former) {
            (Self::Cancelled { count }, Some(Self::Cancelled { count: before })) => {
                Self::Cancelled { count: count + before }
            }
            (answer, _) => answer,
        }
    }

    /// About how many bytes the reply takes that are not packed yet.
    pub(super) fn cost(&self, cache: &ReplyCache) -> usize {
        let bytes = |topics: &TopicList| topics.iter().map(|packed| packed.len()).sum::<usize>();
        match self {
            Self::List { topics, entries: None } if cache.has_list(topics) => 0,
            Self::Snapshot { topics, .. } if cache.has_snapshot(topics) => 0,
            Self::List { topics, entries: None } | Self::Snapshot { topics, .. } => bytes(topics),
            Self::List { topics, entries: Some(entries) } => {
                bytes(topics) + entries.len() * ENTRY_BYTES
            }
            Self::Found { packed, .. } => SMALL_REPLY_BYTES + packed.len(),
            Self::Events(selection) => SMALL_REPLY_BYTES + selection.bytes,
            Self::Error { message, .. } => SMALL_REPLY_BYTES + message.len(),
            Self::Pong { .. }
            | Self::Registered { .. }
            | Self::AlreadyExists { .. }
            | Self::Unregistered { .. }
            | Self::NotFound { .. }
            | Self::Renewed { .. }
            | Self::Cancelled { .. }
            | Self::Stats(_)
            | Self::ShuttingDown => SMALL_REPLY_BYTES,
        }
    }

    /// The reply. A request without an extension gets none; replies to WATCH and STATS always have
    /// one.
    pub(super) fn into_reply(
        self,
        wants_ext: bool,
        context: &ReplyContext<'_>,
        cache: &mut ReplyCache,
    ) -> (DiscoveryStatus, ReplyBody) {
        let ok = DiscoveryStatus::Ok;
        let empty_ext = || wants_ext.then(ResponseExt::default);
        let plain = |status, message: &str, ext: Option<ResponseExt>| {
            (status, pack(status, message, ext.as_ref()))
        };
        let (status, body) = match self {
            Self::Pong { revision, topics } => {
                let ext = wants_ext.then(|| hello(context, revision, topics));
                plain(ok, "pong", ext)
            }
            Self::Registered { name, revision, lease_ms } => {
                let revision = Some(revision);
                let ext = || ResponseExt { revision, lease_ms, ..ResponseExt::default() };
                plain(ok, &format!("Registered topic: {name}"), wants_ext.then(ext))
            }
            Self::AlreadyExists { name, node, .. } => {
                let message = format!("Topic {name} already registered by {node}");
                plain(DiscoveryStatus::AlreadyExists, &message, empty_ext())
            }
            Self::Unregistered { name } => {
                plain(ok, &format!("Unregistered topic: {name}"), empty_ext())
            }
            Self::Found { packed, entry } => {
                let ext = || ResponseExt { entry, ..ResponseExt::default() };
                (ok, pack_topic(&packed, wants_ext.then(ext).as_ref()))
            }
            Self::NotFound { name } => {
                let message = format!("Topic {name} not found");
                plain(DiscoveryStatus::NotFound, &message, empty_ext())
            }
            Self::List { topics, entries: None } => {
                (ok, cache.list(&topics, || pack_topics(&topics, None)))
            }
            Self::List { topics, entries } => {
                let ext = ResponseExt { entries, ..ResponseExt::default() };
                (ok, pack_topics(&topics, Some(&ext)))
            }
            Self::Events(selection) => (ok, pack_events(context.log, &selection)),
            Self::Snapshot { topics, position } => {
                let Since { epoch, revision } = position;
                let ext = EncodedWatchExt { epoch, revision, snapshot: Some(true), events: None };
                (ok, cache.snapshot(&topics, || pack_watch(&topics, &ext)))
            }
            Self::Renewed { lease_ms, is_known } => {
                let (lease_ms, known) = (Some(lease_ms), Some(is_known));
                let ext = || ResponseExt { lease_ms, known, ..ResponseExt::default() };
                plain(ok, "", wants_ext.then(ext))
            }
            Self::Cancelled { count } => {
                let cancelled = Some(count as u64);
                let ext = || ResponseExt { cancelled, ..ResponseExt::default() };
                plain(ok, "", wants_ext.then(ext))
            }
            Self::Stats(stats) => return (ok, ReplyBody::Stats(stats)),
            Self::ShuttingDown => plain(ok, "Shutting down", empty_ext()),
            Self::Error { message, .. } => plain(DiscoveryStatus::Error, &message, empty_ext()),
        };
        (status, ReplyBody::Packed(body))
    }
}

fn hello(context: &ReplyContext<'_>, revision: u64, topics: u64) -> ResponseExt {
    ResponseExt {
        level: Some(EXTENSION_LEVEL),
        server: Some(context.settings.server.clone()),
        epoch: Some(context.log.position(View::Committed).epoch),
        revision: Some(revision),
        pid: Some(context.settings.pid.into()),
        uptime_ms: Some(context.now.ms_since(context.started)),
        topics: Some(topics),
        cancel: Some(true),
        ..ResponseExt::default()
    }
}
