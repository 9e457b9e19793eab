//! The description of a topic.

use serde::Serialize;

use crate::encode::to_msgpack;
use crate::reader::{Reader, to_unsigned};
use crate::{DecodeError, DecodeErrorKind, TopicName};

/// A topic as its publisher registered it.
///
/// On the wire it is a MessagePack map with exactly these five keys in this order. Messages carry the
/// encoded map as bytes. A Python peer fails when a key is missing or unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct TopicInfo {
    /// The topic's name, such as `/camera/image`.
    pub name: TopicName,
    /// The endpoint: the ZeroMQ address where the publisher sends, such as
    /// `ipc:///tmp/cortex/topics/x.sock`.
    pub address: String,
    /// The name of the message type.
    pub message_type: String,
    /// The fingerprint of the message type's layout.
    pub fingerprint: u64,
    /// The name of the node that publishes the topic.
    pub publisher_node: String,
}

impl TopicInfo {
    /// Encodes the topic to its canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_msgpack(self)
    }

    /// Decodes a topic. The keys can have any order, and the last of duplicate keys counts.
    ///
    /// # Errors
    /// When the bytes are not one map with exactly the five keys, or a value has a wrong type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(Reader::new(bytes))
    }

    /// Decodes a topic from all the bytes of `reader`.
    pub(crate) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.offset();
        let (mut name, mut address, mut message_type) = (None, None, None);
        let (mut fingerprint, mut publisher_node) = (None, None);
        for _ in 0..reader.read_map_header()? {
            let at = reader.offset();
            let key = reader.read_text().map_err(|error| error.within("(key)"))?;
            let read = match key {
                "name" => read_name(&mut reader).map(|value| name = Some(value)),
                "address" => reader.read_text().map(|value| address = Some(value)),
                "message_type" => reader.read_text().map(|value| message_type = Some(value)),
                "fingerprint" => {
                    read_fingerprint(&mut reader).map(|value| fingerprint = Some(value))
                }
                "publisher_node" => reader.read_text().map(|value| publisher_node = Some(value)),
                _ => {
                    let key = key.chars().take(64).collect();
                    return Err(DecodeError::new(at, DecodeErrorKind::UnknownKey { key }));
                }
            };
            read.map_err(|error| error.within(key))?;
        }
        reader.expect_end()?;

        let missing = |key| DecodeError::new(start, DecodeErrorKind::MissingKey { key });
        Ok(Self {
            name: name.ok_or_else(|| missing("name"))?,
            address: address.ok_or_else(|| missing("address"))?.to_owned(),
            message_type: message_type.ok_or_else(|| missing("message_type"))?.to_owned(),
            fingerprint: fingerprint.ok_or_else(|| missing("fingerprint"))?,
            publisher_node: publisher_node.ok_or_else(|| missing("publisher_node"))?.to_owned(),
        })
    }
}

fn read_name(reader: &mut Reader<'_>) -> Result<TopicName, DecodeError> {
    let at = reader.offset();
    TopicName::new(reader.read_text()?).map_err(|error| DecodeError::new(at, error.into()))
}

fn read_fingerprint(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let at = reader.offset();
    to_unsigned(reader.read_integer()?, at)
}
