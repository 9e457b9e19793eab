//! The responses that the daemon sends.

use serde::Serialize;

use crate::encode::{Bin, to_msgpack};
use crate::reader::Reader;
use crate::{DecodeError, DecodeErrorKind, DiscoveryStatus, ResponseExt, TopicInfo};

/// The daemon's response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryResponse {
    /// The result of the request.
    pub status: DiscoveryStatus,
    /// An explanation for humans; often empty.
    pub message: String,
    /// The topic of a successful LOOKUP or WAIT.
    pub topic_info: Option<TopicInfo>,
    /// The topics of a LIST or a snapshot, in the order of their first registration.
    pub topics: Vec<TopicInfo>,
    /// The extension. It is absent when the daemon has level 0, or the request had no extension.
    pub ext: Option<ResponseExt>,
}

/// A response whose topics are already encoded. A daemon keeps topics in this form, and [`to_bytes`]
/// copies them.
///
/// [`to_bytes`]: EncodedResponse::to_bytes
#[derive(Clone, Copy, Debug)]
pub struct EncodedResponse<'a, E = ResponseExt> {
    /// The result of the request.
    pub status: DiscoveryStatus,
    /// An explanation for humans.
    pub message: &'a str,
    /// The topic's bytes from [`TopicInfo::to_bytes`].
    pub topic_info: Option<&'a [u8]>,
    /// Each topic's bytes from [`TopicInfo::to_bytes`]. Without topics the key is left out, as in the
    /// reference.
    pub topics: &'a [&'a [u8]],
    /// The extension, only in a reply to a request that asks for one: a [`ResponseExt`], or an
    /// [`EncodedWatchExt`](crate::EncodedWatchExt).
    pub ext: Option<&'a E>,
}

/// The keys in the reference's order.
#[derive(Serialize)]
struct WireResponse<'a, E> {
    status: DiscoveryStatus,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_info: Option<Bin<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<Bin<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ext: Option<&'a E>,
}

impl<E: Serialize> EncodedResponse<'_, E> {
    /// Encodes the response to its canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_msgpack(&WireResponse {
            status: self.status,
            message: self.message,
            topic_info: self.topic_info.map(Bin),
            topics: self.topics.iter().map(|topic| Bin(topic)).collect(),
            ext: self.ext,
        })
    }
}

impl DiscoveryResponse {
    /// Makes a response without topics and without an extension.
    #[must_use]
    pub fn new(status: DiscoveryStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), topic_info: None, topics: Vec::new(), ext: None }
    }

    /// Encodes the response to its canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let topic_info = self.topic_info.as_ref().map(TopicInfo::to_bytes);
        let topics: Vec<_> = self.topics.iter().map(TopicInfo::to_bytes).collect();
        EncodedResponse {
            status: self.status,
            message: &self.message,
            topic_info: topic_info.as_deref(),
            topics: &topics.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            ext: self.ext.as_ref(),
        }
        .to_bytes()
    }

    /// Decodes a response from the whole body of a message. An absent `message` becomes an empty one.
    ///
    /// # Errors
    /// When the bytes are not one map with text keys, `status` is missing or unknown, or a known key
    /// has a value of a wrong type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (mut status, mut message) = (None, None);
        let (mut topic_info, mut topics, mut ext) = (None, Vec::new(), None);
        for _ in 0..reader.read_map_header()? {
            let key = reader.read_text().map_err(|error| error.within("(key)"))?;
            let read = match key {
                "status" => read_status(&mut reader).map(|value| status = Some(value)),
                "message" => reader.read_optional_text().map(|value| message = value),
                "topic_info" => reader
                    .read_optional_binary()
                    .and_then(|inner| inner.map(TopicInfo::read).transpose())
                    .map(|info| topic_info = info),
                "topics" => read_topics(&mut reader).map(|value| topics = value),
                "ext" => ResponseExt::read(&mut reader).map(|value| ext = Some(value)),
                _ => reader.skip_value(),
            };
            read.map_err(|error| error.within(key))?;
        }
        reader.expect_end()?;

        let missing = || DecodeError::new(0, DecodeErrorKind::MissingKey { key: "status" });
        Ok(Self {
            status: status.ok_or_else(missing)?,
            message: message.unwrap_or_default().to_owned(),
            topic_info,
            topics,
            ext,
        })
    }
}

fn read_status(reader: &mut Reader<'_>) -> Result<DiscoveryStatus, DecodeError> {
    let at = reader.offset();
    let found = reader.read_integer()?;
    DiscoveryStatus::from_number(found).ok_or_else(|| {
        let expected = "a status from 0 to 3";
        DecodeError::new(at, DecodeErrorKind::OutOfRange { expected, found })
    })
}

fn read_topics(reader: &mut Reader<'_>) -> Result<Vec<TopicInfo>, DecodeError> {
    // No allocation by the claimed length: the peer may claim any.
    let mut topics = Vec::new();
    for index in 0..reader.read_optional_array_header()?.unwrap_or(0) {
        let topic = reader.read_binary().and_then(TopicInfo::read);
        topics.push(topic.map_err(|error| error.within(&format!("[{index}]")))?);
    }
    Ok(topics)
}
