//! Encoding of messages to canonical MessagePack.

use serde::{Serialize, Serializer};

/// Encodes a message. A map's keys have the order of the struct's fields; integers and lengths have
/// their shortest form.
pub(crate) fn to_msgpack(message: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "writing to a Vec cannot fail, and the crate's messages hold only structs, strings, integers and bytes"
    )]
    rmp_serde::to_vec_named(message).expect("packing into memory")
}

/// Bytes to encode as MessagePack `bin`. Serde alone would encode an array of integers.
pub(crate) struct Bin<'a>(pub(crate) &'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
