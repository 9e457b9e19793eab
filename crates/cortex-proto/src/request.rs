//! The requests that clients send.

use serde::Serialize;

use crate::encode::{Bin, to_msgpack};
use crate::reader::Reader;
use crate::{
    DecodeError, DecodeErrorKind, DiscoveryCommand, RequestExt, RequestedCommand, Session,
    TopicInfo,
};

/// A client's request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryRequest {
    /// The command; an unknown number decodes too.
    pub command: RequestedCommand,
    /// The name of the topic for LOOKUP, UNREGISTER and WAIT. Any text is allowed; the daemon finds
    /// no topic for a text that cannot be a name.
    pub topic_name: Option<String>,
    /// The topic for REGISTER. UNREGISTER takes the name from here when `topic_name` has none.
    pub topic_info: Option<TopicInfo>,
    /// The extension, which asks for a reply with an extension.
    pub ext: Option<RequestExt>,
}

/// The keys in the reference's order. The reference encodes `topic_name` even when it is nil.
#[derive(Serialize)]
struct WireRequest<'a> {
    command: WireCommand,
    topic_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_info: Option<Bin<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ext: Option<&'a RequestExt>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireCommand {
    Known(DiscoveryCommand),
    Positive(u64),
    Negative(i64),
}

impl From<RequestedCommand> for WireCommand {
    fn from(command: RequestedCommand) -> Self {
        match command {
            RequestedCommand::Known(command) => Self::Known(command),
            RequestedCommand::Unknown(number) => u64::try_from(number).map_or_else(
                // Only a caller's own number can be below MessagePack's range.
                |_| Self::Negative(i64::try_from(number).unwrap_or(i64::MIN)),
                Self::Positive,
            ),
        }
    }
}

impl DiscoveryRequest {
    /// REGISTER: registers a topic.
    #[must_use]
    pub fn register(topic_info: TopicInfo) -> Self {
        Self { topic_info: Some(topic_info), ..Self::command_only(DiscoveryCommand::RegisterTopic) }
    }

    /// UNREGISTER: removes a topic.
    #[must_use]
    pub fn unregister(topic_name: impl Into<String>) -> Self {
        Self {
            topic_name: Some(topic_name.into()),
            ..Self::command_only(DiscoveryCommand::UnregisterTopic)
        }
    }

    /// LOOKUP: gets one topic.
    #[must_use]
    pub fn lookup(topic_name: impl Into<String>) -> Self {
        Self {
            topic_name: Some(topic_name.into()),
            ..Self::command_only(DiscoveryCommand::LookupTopic)
        }
    }

    /// LIST: gets all topics.
    #[must_use]
    pub fn list() -> Self {
        Self::command_only(DiscoveryCommand::ListTopics)
    }

    /// PING: checks that the daemon answers.
    #[must_use]
    pub fn ping() -> Self {
        Self::command_only(DiscoveryCommand::Ping)
    }

    /// SHUTDOWN: stops the daemon.
    #[must_use]
    pub fn shutdown() -> Self {
        Self::command_only(DiscoveryCommand::Shutdown)
    }

    /// RENEW (extension): renews a session's lease.
    #[must_use]
    pub fn renew(session: Session) -> Self {
        let ext = RequestExt { session: Some(session), ..RequestExt::default() };
        Self { ext: Some(ext), ..Self::command_only(DiscoveryCommand::Renew) }
    }

    /// WAIT (extension): gets one topic. The daemon replies when the topic is registered, or after
    /// `wait_ms`.
    #[must_use]
    pub fn wait(topic_name: impl Into<String>, wait_ms: u64) -> Self {
        let ext = RequestExt { wait_ms: Some(wait_ms), ..RequestExt::default() };
        Self {
            topic_name: Some(topic_name.into()),
            ext: Some(ext),
            ..Self::command_only(DiscoveryCommand::WaitTopic)
        }
    }

    /// WATCH (extension): gets a snapshot, or the events after [`since`](RequestExt::since). The
    /// daemon replies when it has an event, or after [`wait_ms`](RequestExt::wait_ms).
    #[must_use]
    pub fn watch(ext: RequestExt) -> Self {
        Self { ext: Some(ext), ..Self::command_only(DiscoveryCommand::WatchTopics) }
    }

    /// STATS (extension): gets the daemon's counters and gauges.
    #[must_use]
    pub fn stats() -> Self {
        Self { ext: Some(RequestExt::default()), ..Self::command_only(DiscoveryCommand::Stats) }
    }

    /// CANCEL (extension): ends a parked request. It is sent on the same connection and with the same
    /// envelope as the WAIT or WATCH that the client gives up, which then gets no reply.
    #[must_use]
    pub fn cancel() -> Self {
        Self { ext: Some(RequestExt::default()), ..Self::command_only(DiscoveryCommand::Cancel) }
    }

    /// Adds an extension. An empty one asks for all information that a level 1 reply adds.
    #[must_use]
    pub fn with_ext(self, ext: RequestExt) -> Self {
        Self { ext: Some(ext), ..self }
    }

    fn command_only(command: DiscoveryCommand) -> Self {
        Self { command: command.into(), topic_name: None, topic_info: None, ext: None }
    }

    /// Encodes the request to its canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let topic_info = self.topic_info.as_ref().map(TopicInfo::to_bytes);
        to_msgpack(&WireRequest {
            command: self.command.into(),
            topic_name: self.topic_name.as_deref(),
            topic_info: topic_info.as_deref().map(Bin),
            ext: self.ext.as_ref(),
        })
    }

    /// Decodes a request from the whole body of a message.
    ///
    /// # Errors
    /// When the bytes are not one map with text keys, `command` is missing, or a known key has a
    /// value of a wrong type. An unknown command number is not an error: see [`RequestedCommand`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (mut command, mut topic_name) = (None, None);
        let (mut topic_info, mut ext) = (None, None);
        for _ in 0..reader.read_map_header()? {
            let key = reader.read_text().map_err(|error| error.within("(key)"))?;
            let read = match key {
                "command" => reader.read_integer().map(|number| command = Some(number)),
                "topic_name" => reader.read_optional_text().map(|name| topic_name = name),
                "topic_info" => reader
                    .read_optional_binary()
                    .and_then(|inner| inner.map(TopicInfo::read).transpose())
                    .map(|info| topic_info = info),
                "ext" => RequestExt::read(&mut reader).map(|value| ext = Some(value)),
                _ => reader.skip_value(),
            };
            read.map_err(|error| error.within(key))?;
        }
        reader.expect_end()?;

        let missing = || DecodeError::new(0, DecodeErrorKind::MissingKey { key: "command" });
        Ok(Self {
            command: RequestedCommand::from_number(command.ok_or_else(missing)?),
            topic_name: topic_name.map(str::to_owned),
            topic_info,
            ext,
        })
    }

    /// Whether the reply must have an extension: the request has one, or its command belongs to the
    /// extensions (64 to 95).
    #[must_use]
    pub fn wants_ext(&self) -> bool {
        self.ext.is_some() || (64..96).contains(&self.command.number())
    }

    /// Whether an unreadable request asks for a reply with an extension: it has the key `ext`, or a
    /// command of the extensions (64 to 95). Values of a wrong type do not hide these keys; bytes
    /// that are not MessagePack hide the keys after them.
    #[must_use]
    pub fn asks_for_ext(bytes: &[u8]) -> bool {
        let mut reader = Reader::new(bytes);
        let mut find_ext = || -> Result<bool, DecodeError> {
            for _ in 0..reader.read_map_header()? {
                match reader.read_text()? {
                    "ext" => return Ok(true),
                    "command" => {
                        let mut number = reader.clone();
                        if number.read_integer().is_ok_and(|number| (64..96).contains(&number)) {
                            return Ok(true);
                        }
                        reader.skip_value()?;
                    }
                    _ => reader.skip_value()?,
                }
            }
            Ok(false)
        };
        find_ext().unwrap_or(false)
    }
}
