//! The events of the history, which WATCH replies carry.

use serde::{Serialize, Serializer};

use crate::encode::Bin;
use crate::reader::{Reader, for_each_entry, read_items};
use crate::wire_enums::{EventKind, RemovalReason};
use crate::{DecodeError, DecodeErrorKind, TopicInfo};

/// One change in the daemon's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventExt {
    /// The kind of the change.
    pub kind: EventKind,
    /// The revision of the change.
    pub revision: u64,
    /// The name of the topic that changed.
    pub topic_name: String,
    /// The topic after the change, or before it when the change removed the topic. On the wire it is
    /// packed as bytes, as in a response.
    #[serde(serialize_with = "serialize_info")]
    pub topic_info: TopicInfo,
    /// The reason for the removal; `None` when the topic is still registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<RemovalReason>,
}

/// An event whose topic is already encoded. A daemon keeps topics in this form.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EncodedEvent<'a> {
    /// The word of an [`EventKind`].
    pub kind: &'a str,
    /// The revision of the change.
    pub revision: u64,
    /// The name of the topic that changed.
    pub topic_name: &'a str,
    /// The topic's bytes from [`TopicInfo::to_bytes`].
    #[serde(serialize_with = "serialize_bytes")]
    pub topic_info: &'a [u8],
    /// The word of a [`RemovalReason`]; `None` when the topic is still registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// The extension of a WATCH reply whose events are already encoded. It encodes to the same bytes as a
/// [`ResponseExt`](crate::ResponseExt) with these keys.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EncodedWatchExt<'a> {
    /// The epoch of the daemon's history.
    pub epoch: u64,
    /// The revision up to which the reply covers the history.
    pub revision: u64,
    /// True when the response's `topics` are a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
    /// The events in order of their revision.
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
