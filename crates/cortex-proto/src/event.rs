//! What a watch is told: the events of the history.

use serde::{Serialize, Serializer};

use crate::encode::Bin;
use crate::ext::{for_each_entry, read_items};
use crate::reader::Reader;
use crate::wire_enums::{EventKind, RemovalReason};
use crate::{DecodeError, DecodeErrorKind, TopicInfo};

/// An event of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventExt {
    /// What happened.
    pub kind: EventKind,
    /// The number of the change.
    pub revision: u64,
    /// The topic that it happened to.
    pub topic_name: String,
    /// The topic, on the wire packed as in a response; the last that was known when it is gone.
    #[serde(serialize_with = "serialize_info")]
    pub topic_info: TopicInfo,
    /// Why the topic is gone; `None` when it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<RemovalReason>,
}

/// An event whose topic is packed already, as a daemon keeps it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EncodedEvent<'a> {
    /// What happened, as the word of an [`EventKind`].
    pub kind: &'a str,
    /// The number of the change.
    pub revision: u64,
    /// The topic that it happened to.
    pub topic_name: &'a str,
    /// The bytes of [`TopicInfo::to_bytes`].
    #[serde(serialize_with = "serialize_bytes")]
    pub topic_info: &'a [u8],
    /// Why the topic is gone, as the word of a [`RemovalReason`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// The extension of a WATCH's reply, with events that are packed already: the same bytes as those
/// of a [`ResponseExt`](crate::ResponseExt) with these keys.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EncodedWatchExt<'a> {
    /// The number of the history.
    pub epoch: u64,
    /// How far the reply has looked.
    pub revision: u64,
    /// True when the response's `topics` are all that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// What happened, in the order in which it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<&'a [EncodedEvent<'a>]>,
}

fn serialize_info<S: Serializer>(info: &TopicInfo, serializer: S) -> Result<S::Ok, S::Error> {
    Bin(&info.to_bytes()).serialize(serializer)
}

fn serialize_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    Bin(bytes).serialize(serializer)
}

impl EventExt {
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Option<Vec<Self>>, DecodeError> {
        read_items(reader, Self::read)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let (mut kind, mut revision, mut topic_name) = (None, None, None);
        let (mut topic_info, mut reason) = (None, None);
        for_each_entry(reader, |reader, key| {
            match key {
                "kind" => kind = reader.read_optional_text()?.map(EventKind::from),
                "revision" => revision = reader.read_optional_unsigned()?,
                "topic_name" => topic_name = reader.read_optional_text()?.map(str::to_owned),
                "topic_info" => {
                    topic_info = reader.read_optional_binary()?.map(TopicInfo::read).transpose()?;
                }
                "reason" => reason = reader.read_optional_text()?.map(RemovalReason::from),
                _ => reader.skip_value()?,
            }
            Ok(())
        })?;
        let missing = |key| DecodeError::new(at, DecodeErrorKind::MissingKey { key });
        Ok(Self {
            kind: kind.ok_or_else(|| missing("kind"))?,
            revision: revision.ok_or_else(|| missing("revision"))?,
            topic_name: topic_name.ok_or_else(|| missing("topic_name"))?,
            topic_info: topic_info.ok_or_else(|| missing("topic_info"))?,
            reason,
        })
    }
}
