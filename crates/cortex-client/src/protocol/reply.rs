//! Decoding of replies into the results of calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryCommand, DiscoveryResponse, DiscoveryStatus, EXTENSION_LEVEL, EventExt, ResponseExt,
    Since, TopicInfo,
};

use crate::error::{Error, Result, UnreadableReply};
use crate::info::{DaemonInfo, TopicDescription};

/// A received message, not decoded yet: a large one is decoded on its caller's thread.
#[derive(Clone, Debug)]
pub(crate) struct RawReply {
    /// The first part. A LIST may have several readers.
    pub(crate) body: Arc<Vec<u8>>,
    /// The number of parts of the message.
    pub(crate) parts: usize,
    /// How often the request was sent.
    pub(crate) times_sent: u32,
    /// When the request was sent.
    pub(crate) sent_at: Instant,
    pub(crate) received_at: Instant,
}

#[cfg(test)]
impl RawReply {
    /// A reply of one part to a request that was sent once.
    pub(crate) fn for_test(
        response: &DiscoveryResponse,
        sent_at: Instant,
        received_at: Instant,
    ) -> Self {
        Self { body: Arc::new(response.to_bytes()), parts: 1, times_sent: 1, sent_at, received_at }
    }
}

/// The answer to WATCH, and the revision that it leads to.
#[derive(Debug)]
pub(crate) enum WatchReply {
    /// All topics.
    Snapshot { topics: Vec<TopicInfo>, since: Since },
    /// The changes.
    Events { events: Vec<EventExt>, since: Since },
}

/// A decoded reply, and how often its request was sent.
#[derive(Debug)]
pub(crate) struct Reply {
    response: Box<DiscoveryResponse>,
    times_sent: u32,
}

impl Reply {
    pub(crate) fn read(raw: &RawReply) -> Result<Self> {
        if raw.parts != 1 {
            return Err(UnreadableReply::Parts { count: raw.parts }.into());
        }
        let response = DiscoveryResponse::from_bytes(&raw.body).map_err(UnreadableReply::Decode)?;
        Ok(Self { response: Box::new(response), times_sent: raw.times_sent })
    }

    /// The answer to REGISTER.
    pub(crate) fn registered(self, topic: &str) -> Result<()> {
        match self.response.status {
            DiscoveryStatus::Ok => Ok(()),
            DiscoveryStatus::AlreadyExists => {
                let message = self.response.message;
                let node = message
                    .strip_prefix("Topic ")
                    .and_then(|rest| rest.strip_prefix(topic))
                    .and_then(|rest| rest.strip_prefix(" already registered by "))
                    .map(str::to_owned);
                Err(Error::AlreadyRegistered { topic: topic.to_owned(), node, message })
            }
            DiscoveryStatus::NotFound | DiscoveryStatus::Error => Err(self.failure()),
        }
    }

    /// The answer to UNREGISTER.
    pub(crate) fn unregistered(self, topic: &str) -> Result<()> {
        match self.response.status {
            DiscoveryStatus::Ok => Ok(()),
            // An earlier attempt has unregistered it, and only its answer was lost.
            DiscoveryStatus::NotFound if self.times_sent > 1 => Ok(()),
            DiscoveryStatus::NotFound => Err(Error::NoSuchTopic { topic: topic.to_owned() }),
            DiscoveryStatus::AlreadyExists | DiscoveryStatus::Error => Err(self.failure()),
        }
    }

    /// The answer to LOOKUP.
    pub(crate) fn found(self, topic: &str) -> Result<TopicInfo> {
        match self.response.status {
            DiscoveryStatus::Ok => match self.response.topic_info {
                Some(info) if info.name.as_str() == topic => Ok(info),
                Some(info) => Err(UnreadableReply::OtherTopic { found: info.name.into() }.into()),
                None => Err(UnreadableReply::NoTopicInfo.into()),
            },
            DiscoveryStatus::NotFound => Err(Error::NoSuchTopic { topic: topic.to_owned() }),
            DiscoveryStatus::AlreadyExists | DiscoveryStatus::Error => Err(self.failure()),
        }
    }

    /// The answer to LIST.
    pub(crate) fn listed(self) -> Result<Vec<TopicInfo>> {
        match self.response.status {
            DiscoveryStatus::Ok => Ok(self.response.topics),
            DiscoveryStatus::NotFound | DiscoveryStatus::AlreadyExists | DiscoveryStatus::Error => {
                Err(self.failure())
            }
        }
    }

    /// The answer to SHUTDOWN.
    pub(crate) fn done(self) -> Result<()> {
        self.listed().map(drop)
    }

    /// The answer to PING. The Python daemons from before the command PING refuse its number in
    /// their own words, and live.
    pub(crate) fn pong(self) -> Result<()> {
        let does_not_know_ping = self.response.status == DiscoveryStatus::Error
            && self.response.ext.is_none()
            && self.response.message.ends_with("5 is not a valid DiscoveryCommand");
        if does_not_know_ping { Ok(()) } else { self.done() }
    }

    /// The answer to a PING with extensions.
    pub(crate) fn daemon_info(self) -> Result<DaemonInfo> {
        let ext = self.response.ext.clone();
        self.pong()?;
        Ok(ext.map_or_else(DaemonInfo::default, |ext| DaemonInfo {
            // A daemon that answers with an extension has at least this level.
            level: ext.level.unwrap_or(EXTENSION_LEVEL),
            server: ext.server,
            epoch: ext.epoch,
            revision: ext.revision,
            pid: ext.pid,
            uptime: ext.uptime_ms.map(Duration::from_millis),
            topics: ext.topics,
        }))
    }

    /// The answer to a LOOKUP with extensions.
    pub(crate) fn described(mut self, topic: &str) -> Result<TopicDescription> {
        let entry = self.response.ext.take().and_then(|ext| ext.entry);
        Ok(TopicDescription { info: self.found(topic)?, entry })
    }

    /// The answer to a LIST with extensions.
    pub(crate) fn all_described(mut self) -> Result<Vec<TopicDescription>> {
        let entries = self.response.ext.take().and_then(|ext| ext.entries);
        let topics = self.listed()?;
        let Some(entries) = entries else {
            let plain = |info| TopicDescription { info, entry: None };
            return Ok(topics.into_iter().map(plain).collect());
        };
        if entries.len() != topics.len() {
            let (topics, entries) = (topics.len(), entries.len());
            return Err(UnreadableReply::Entries { topics, entries }.into());
        }
        let pairs = topics.into_iter().zip(entries);
        Ok(pairs.map(|(info, entry)| TopicDescription { info, entry: Some(entry) }).collect())
    }

    /// The answer to STATS: every number in the reply, by its name.
    pub(crate) fn stats(mut self) -> Result<BTreeMap<String, u64>> {
        let Some(ext) = self.response.ext.take() else {
            return Err(Error::Unsupported { request: DiscoveryCommand::Stats.into() });
        };
        self.done()?;
        // These keys have fields of their own, since other replies use them too.
        let named = [
            ("epoch", ext.epoch),
            ("level", ext.level),
            ("pid", ext.pid),
            ("revision", ext.revision),
            ("topics", ext.topics),
            ("uptime_ms", ext.uptime_ms),
        ];
        let mut counts = ext.counts;
        counts.extend(named.into_iter().filter_map(|(name, number)| Some((name.into(), number?))));
        Ok(counts)
    }

    /// The answer to WATCH, from a daemon of level 1.
    pub(crate) fn watched(mut self) -> Result<WatchReply> {
        let ext = self.response.ext.take().unwrap_or_default();
        let topics = self.listed()?;
        let (Some(epoch), Some(revision)) = (ext.epoch, ext.revision) else {
            return Err(UnreadableReply::NoRevision.into());
        };
        let since = Since { epoch, revision };
        if ext.snapshot == Some(true) {
            return Ok(WatchReply::Snapshot { topics, since });
        }
        let events = ext.events.unwrap_or_default();
        let other = events.iter().find(|event| event.topic_name != event.topic_info.name.as_str());
        if let Some(event) = other {
            let found = event.topic_info.name.as_str().to_owned();
            return Err(UnreadableReply::OtherTopic { found }.into());
        }
        Ok(WatchReply::Events { events, since })
    }

    /// The extension of the reply. A daemon of level 1 answers a request that has an extension with
    /// one; a daemon of level 0 never has one.
    pub(crate) fn ext(&self) -> Option<&ResponseExt> {
        self.response.ext.as_ref()
    }

    /// The error for a status that is no answer to the call.
    fn failure(self) -> Error {
        match self.response.status {
            DiscoveryStatus::Error => Error::Refused { message: self.response.message },
            status @ (DiscoveryStatus::Ok
            | DiscoveryStatus::NotFound
            | DiscoveryStatus::AlreadyExists) => UnreadableReply::Status { status }.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cortex_proto::{EndpointState, EntryExt, Hold, TopicName};

    use super::*;

    fn reply(status: DiscoveryStatus, message: &str, times_sent: u32) -> Reply {
        Reply { response: Box::new(DiscoveryResponse::new(status, message)), times_sent }
    }

    fn info(name: &str) -> TopicInfo {
        TopicInfo {
            name: TopicName::new(name).unwrap(),
            address: "ipc:///tmp/a".into(),
            message_type: "T".into(),
            fingerprint: 7,
            publisher_node: "n".into(),
        }
    }

    fn status_error(status: DiscoveryStatus) -> Error {
        UnreadableReply::Status { status }.into()
    }

    #[test]
    fn each_status_gives_the_result_of_each_call() {
        use DiscoveryStatus::{AlreadyExists, Error as Failed, NotFound, Ok as Done};
        let missing = || Error::NoSuchTopic { topic: "/a".into() };
        let refused = || Error::Refused { message: "why".into() };
        let taken =
            || Error::AlreadyRegistered { topic: "/a".into(), node: None, message: "why".into() };

        let register = |status| reply(status, "why", 1).registered("/a");
        assert_eq!(register(Done), Ok(()));
        assert_eq!(register(NotFound), Err(status_error(NotFound)));
        assert_eq!(register(AlreadyExists), Err(taken()));
        assert_eq!(register(Failed), Err(refused()));

        let unregister = |status, times_sent| reply(status, "why", times_sent).unregistered("/a");
        assert_eq!(unregister(Done, 1), Ok(()));
        assert_eq!(unregister(NotFound, 1), Err(missing()));
        assert_eq!(unregister(NotFound, 2), Ok(()));
        assert_eq!(unregister(AlreadyExists, 2), Err(status_error(AlreadyExists)));
        assert_eq!(unregister(Failed, 2), Err(refused()));

        let lookup = |status| reply(status, "why", 2).found("/a");
        assert_eq!(lookup(Done), Err(UnreadableReply::NoTopicInfo.into()));
        assert_eq!(lookup(NotFound), Err(missing()));
        assert_eq!(lookup(AlreadyExists), Err(status_error(AlreadyExists)));
        assert_eq!(lookup(Failed), Err(refused()));

        let list = |status| reply(status, "why", 1).listed();
        assert_eq!(list(Done), Ok(Vec::new()));
        assert_eq!(list(NotFound), Err(status_error(NotFound)));
        assert_eq!(list(Failed), Err(refused()));

        assert_eq!(reply(Done, "pong", 1).done(), Ok(()));
        assert_eq!(reply(Failed, "why", 1).done(), Err(refused()));
    }

    #[test]
    fn the_daemons_message_names_the_node_that_owns_the_topic() {
        for (message, node) in [
            ("Topic /a already registered by camera_node", Some("camera_node")),
            (
                "Topic /a already registered by a already registered by b",
                Some("a already registered by b"),
            ),
            ("Topic /a already registered by ", Some("")),
            ("Topic /b already registered by camera_node", None),
            ("taken", None),
        ] {
            let error = reply(DiscoveryStatus::AlreadyExists, message, 1).registered("/a");
            let Err(Error::AlreadyRegistered { node: found, .. }) = error else {
                panic!("{message}: {error:?}");
            };
            assert_eq!(found.as_deref(), node, "{message}");
        }
    }

    #[test]
    fn a_lookup_accepts_only_the_requested_topic() {
        let answer = |name| Reply {
            response: Box::new(DiscoveryResponse {
                topic_info: Some(info(name)),
                ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
            }),
            times_sent: 1,
        };
        assert_eq!(answer("/a").found("/a"), Ok(info("/a")));
        let other = UnreadableReply::OtherTopic { found: "/b".into() };
        assert_eq!(answer("/b").found("/a"), Err(other.into()));
    }

    fn extended(topics: Vec<TopicInfo>, ext: Option<ResponseExt>) -> Reply {
        let topic_info = topics.first().cloned();
        let response = DiscoveryResponse {
            topic_info,
            topics,
            ext,
            ..DiscoveryResponse::new(DiscoveryStatus::Ok, "")
        };
        Reply { response: Box::new(response), times_sent: 1 }
    }

    fn entry(revision: u64) -> EntryExt {
        EntryExt {
            uid: Some(0),
            pid: None,
            hold: Hold::Static,
            revision,
            age_ms: 1,
            endpoint: EndpointState::Unknown,
            endpoint_reason: None,
        }
    }

    #[test]
    fn a_daemon_of_level_0_reports_nothing_about_itself() {
        assert_eq!(extended(Vec::new(), None).daemon_info(), Ok(DaemonInfo::default()));
        let ext = ResponseExt {
            server: Some("cortex-discovery/1.2.3".into()),
            uptime_ms: Some(1500),
            ..ResponseExt::default()
        };
        let hello = extended(Vec::new(), Some(ext)).daemon_info().unwrap();
        assert_eq!((hello.level, hello.uptime), (1, Some(Duration::from_millis(1500))));
        assert_eq!((hello.server.as_deref(), hello.topics), (Some("cortex-discovery/1.2.3"), None));
        let refused = reply(DiscoveryStatus::Error, "why", 1).daemon_info();
        assert_eq!(refused, Err(Error::Refused { message: "why".into() }));
    }

    #[test]
    fn entries_match_the_topics_in_order() {
        let topics = || vec![info("/b"), info("/a")];
        let entries = |entries| {
            let entry = Some(entry(7));
            extended(topics(), Some(ResponseExt { entries, entry, ..ResponseExt::default() }))
        };
        let description = |name: &str, entry| TopicDescription { info: info(name), entry };
        assert_eq!(
            entries(Some(vec![entry(1), entry(2)])).all_described(),
            Ok(vec![description("/b", Some(entry(1))), description("/a", Some(entry(2)))])
        );
        let plain = Ok(vec![description("/b", None), description("/a", None)]);
        assert_eq!(entries(None).all_described(), plain);
        assert_eq!(extended(topics(), None).all_described(), plain);
        let error = UnreadableReply::Entries { topics: 2, entries: 1 };
        assert_eq!(entries(Some(vec![entry(1)])).all_described(), Err(error.into()));

        assert_eq!(entries(None).described("/b"), Ok(description("/b", Some(entry(7)))));
        assert_eq!(extended(topics(), None).described("/b"), Ok(description("/b", None)));
        let missing = reply(DiscoveryStatus::NotFound, "", 1).described("/b");
        assert_eq!(missing, Err(Error::NoSuchTopic { topic: "/b".into() }));
    }

    #[test]
    fn statistics_are_all_numbers_of_the_reply() {
        let counts = BTreeMap::from([("requests".to_owned(), 5)]);
        let ext = ResponseExt { topics: Some(2), counts, ..ResponseExt::default() };
        let stats = extended(Vec::new(), Some(ext)).stats();
        assert_eq!(stats, Ok(BTreeMap::from([("requests".into(), 5), ("topics".into(), 2)])));
        let unsupported = reply(DiscoveryStatus::Error, "Failed to parse request", 1).stats();
        let request = DiscoveryCommand::Stats.into();
        assert_eq!(unsupported, Err(Error::Unsupported { request }));
    }

    #[test]
    fn a_reply_is_readable_only_as_one_part_with_a_response() {
        let now = Instant::now();
        let pong = DiscoveryResponse::new(DiscoveryStatus::Ok, "pong");
        let raw = RawReply::for_test(&pong, now, now);
        assert!(Reply::read(&raw).is_ok());
        let error = Reply::read(&RawReply { parts: 3, ..raw.clone() }).unwrap_err();
        assert_eq!(error, UnreadableReply::Parts { count: 3 }.into());
        let error = Reply::read(&RawReply { body: Arc::new(b"pong".to_vec()), ..raw }).unwrap_err();
        assert!(matches!(error, Error::Unreadable(UnreadableReply::Decode(_))), "{error}");
    }

    #[test]
    fn a_daemon_from_before_ping_lives() {
        let old = "Failed to parse request: 5 is not a valid DiscoveryCommand";
        assert_eq!(reply(DiscoveryStatus::Error, old, 1).pong(), Ok(()));
        assert_eq!(
            reply(DiscoveryStatus::Error, old, 1).daemon_info(),
            Ok(DaemonInfo::default()),
            "level 0"
        );
        assert!(reply(DiscoveryStatus::Error, "the registry is full", 1).pong().is_err());
        assert!(reply(DiscoveryStatus::Error, old, 1).done().is_err(), "only for PING");
        let mut ours = reply(DiscoveryStatus::Error, old, 1);
        ours.response.ext = Some(ResponseExt::default());
        assert!(ours.pong().is_err(), "a daemon of level 1 knows PING");
    }
}
