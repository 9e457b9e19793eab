//! What a client sends.

use serde::Serialize;

use crate::encode::{Bin, to_msgpack};
use crate::reader::Reader;
use crate::{
    DecodeError, DecodeErrorKind, DiscoveryCommand, RequestExt, RequestedCommand, Session,
    TopicInfo,
};

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryRequest {
    /// What is asked for.
    pub command: RequestedCommand,
    /// The topic that LOOKUP and UNREGISTER speak of. Any text: what names nothing is not found.
    pub topic_name: Option<String>,
    /// The topic to REGISTER (UNREGISTER also takes its name from here when `topic_name` has none).
    pub topic_info: Option<TopicInfo>,
    /// The extension, which asks for an answer with one.
    pub ext: Option<RequestExt>,
}

/// The keys in the reference's order; `topic_name` is packed also when it is nil.
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
                // Below what MessagePack carries only a caller's own number can be.
                |_| Self::Negative(i64::try_from(number).unwrap_or(i64::MIN)),
                Self::Positive,
            ),
        }
    }
}

impl DiscoveryRequest {
    /// REGISTER: make a topic known.
    #[must_use]
    pub fn register(topic_info: TopicInfo) -> Self {
        Self { topic_info: Some(topic_info), ..Self::command_only(DiscoveryCommand::RegisterTopic) }
    }

    /// UNREGISTER: forget a topic.
    #[must_use]
    pub fn unregister(topic_name: impl Into<String>) -> Self {
        Self {
            topic_name: Some(topic_name.into()),
            ..Self::command_only(DiscoveryCommand::UnregisterTopic)
        }
    }

    /// LOOKUP: ask for one topic.
    #[must_use]
    pub fn lookup(topic_name: impl Into<String>) -> Self {
        Self {
            topic_name: Some(topic_name.into()),
            ..Self::command_only(DiscoveryCommand::LookupTopic)
        }
    }

    /// LIST: ask for all topics.
    #[must_use]
    pub fn list() -> Self {
        Self::command_only(DiscoveryCommand::ListTopics)
    }

    /// PING: ask whether the daemon is there.
    #[must_use]
    pub fn ping() -> Self {
        Self::command_only(DiscoveryCommand::Ping)
    }

    /// SHUTDOWN: ask the daemon to end.
    #[must_use]
    pub fn shutdown() -> Self {
        Self::command_only(DiscoveryCommand::Shutdown)
    }

    /// RENEW (extension): keep the topics of a session.
    #[must_use]
    pub fn renew(session: Session) -> Self {
        let ext = RequestExt { session: Some(session), ..RequestExt::default() };
        Self { ext: Some(ext), ..Self::command_only(DiscoveryCommand::Renew) }
    }

    /// WAIT (extension): ask for one topic; the reply is held back until it is there, for
    /// `wait_ms` at most.
    #[must_use]
    pub fn wait(topic_name: impl Into<String>, wait_ms: u64) -> Self {
        let ext = RequestExt { wait_ms: Some(wait_ms), ..RequestExt::default() };
        Self {
            topic_name: Some(topic_name.into()),
            ext: Some(ext),
            ..Self::command_only(DiscoveryCommand::WaitTopic)
        }
    }

    /// WATCH (extension): ask for all topics, or with [`since`](RequestExt::since) for what has
    /// happened; the reply is held back until something has, for `wait_ms` at most.
    #[must_use]
    pub fn watch(ext: RequestExt) -> Self {
        Self { ext: Some(ext), ..Self::command_only(DiscoveryCommand::WatchTopics) }
    }

    /// STATS (extension): ask for counters and gauges.
    #[must_use]
    pub fn stats() -> Self {
        Self { ext: Some(RequestExt::default()), ..Self::command_only(DiscoveryCommand::Stats) }
    }

    /// The same request with an extension: an empty one asks for what there is to know.
    #[must_use]
    pub fn with_ext(self, ext: RequestExt) -> Self {
        Self { ext: Some(ext), ..self }
    }

    fn command_only(command: DiscoveryCommand) -> Self {
        Self { command: command.into(), topic_name: None, topic_info: None, ext: None }
    }

    /// Packs the request into its canonical bytes.
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

    /// Reads a request from the whole body of a message.
    ///
    /// # Errors
    /// When the bytes are not one map with text keys, `command` is not there, or a known key has
    /// a value of another type. A command with an unknown number is no error: see
    /// [`RequestedCommand`].
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

    /// Whether the answer is to have an extension: the request has one, or its command is one of
    /// the extensions' (64 to 95).
    #[must_use]
    pub fn wants_ext(&self) -> bool {
        self.ext.is_some() || (64..96).contains(&self.command.number())
    }

    /// Whether bytes that are no request ask for an answer with an extension all the same: they
    /// have the key `ext` or a command of the extensions (64 to 95), before what is wrong or
    /// behind it.
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
