//! A strict decoder of MessagePack values.
//!
//! Serde's derived decoding accepts an array as a map, accepts an array of integers or a text as
//! bytes, and ignores trailing bytes. So this crate decodes without serde, and each method names the
//! type that it accepts. The reader checks a length against the remaining bytes before it uses the
//! length, and skips unknown values without recursion.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each method names the types that it accepts; any other type is an error"
)]

use rmp::Marker;

use crate::{DecodeError, DecodeErrorKind};

/// The greatest depth of nested arrays and maps. The reference's decoder has the same limit.
const MAX_DEPTH: usize = 1024;

/// A position in a message.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The offset of `bytes` in the whole message, for errors.
    base: usize,
}

/// The type of a value, with its content or its length.
enum Header {
    Nil,
    Boolean(bool),
    Integer(i128),
    /// A value of a type that the protocol does not use; `length` more bytes follow.
    Opaque {
        kind: &'static str,
        length: usize,
    },
    Text(usize),
    Binary(usize),
    Array(usize),
    Map(usize),
}

impl Header {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Opaque { kind, .. } => kind,
            Self::Text(_) => "text",
            Self::Binary(_) => "bytes",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
        }
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, base: 0 }
    }

    /// The offset of the next value in the whole message.
    pub(crate) fn offset(&self) -> usize {
        self.base + self.position
    }

    /// Returns the number of the map's entries.
    pub(crate) fn read_map_header(&mut self) -> Result<usize, DecodeError> {
        self.read_header_as("a map", |header| match header {
            Header::Map(entries) => Some(*entries),
            _ => None,
        })
    }

    /// Returns the number of the array's items, or `None` for nil.
    pub(crate) fn read_optional_array_header(&mut self) -> Result<Option<usize>, DecodeError> {
        self.read_header_as("an array", |header| match header {
            Header::Array(items) => Some(Some(*items)),
            Header::Nil => Some(None),
            _ => None,
        })
    }

    /// Reads an integer of any width.
    pub(crate) fn read_integer(&mut self) -> Result<i128, DecodeError> {
        self.read_header_as("an integer", |header| match header {
            Header::Integer(number) => Some(*number),
            _ => None,
        })
    }

    /// Reads a text.
    pub(crate) fn read_text(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.read_header_as("text", |header| match header {
            Header::Text(length) => Some(*length),
            _ => None,
        })?;
        self.take_text(length)
    }

    /// Reads a text or nil.
    pub(crate) fn read_optional_text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let length = self.read_header_as("text or nil", |header| match header {
            Header::Text(length) => Some(Some(*length)),
            Header::Nil => Some(None),
            _ => None,
        })?;
        length.map(|length| self.take_text(length)).transpose()
    }

    /// Reads bytes and returns a reader of the message inside them.
    pub(crate) fn read_binary(&mut self) -> Result<Reader<'a>, DecodeError> {
        let length = self.read_header_as("bytes", |header| match header {
            Header::Binary(length) => Some(*length),
            _ => None,
        })?;
        self.take_nested(length)
    }

    /// Reads bytes or nil. Empty bytes count as nil, as in the reference.
    pub(crate) fn read_optional_binary(&mut self) -> Result<Option<Reader<'a>>, DecodeError> {
        let length = self.read_header_as("bytes or nil", |header| match header {
            Header::Binary(length) => Some(*length),
            Header::Nil => Some(0),
            _ => None,
        })?;
        if length == 0 { Ok(None) } else { self.take_nested(length).map(Some) }
    }

    /// Reads an unsigned integer of 64 bits, or nil.
    pub(crate) fn read_optional_unsigned(&mut self) -> Result<Option<u64>, DecodeError> {
        let at = self.offset();
        let number = self.read_header_as("an unsigned integer or nil", |header| match header {
            Header::Integer(number) => Some(Some(*number)),
            Header::Nil => Some(None),
            _ => None,
        })?;
        number.map(|found| to_unsigned(found, at)).transpose()
    }

    /// Reads an unsigned integer of 64 bits. Skips any other value and returns `None` for it.
    pub(crate) fn read_unsigned_or_skip(&mut self) -> Result<Option<u64>, DecodeError> {
        let number = self.clone().read_integer().ok().and_then(|number| u64::try_from(number).ok());
        self.skip_value()?;
        Ok(number)
    }

    /// Reads a boolean or nil.
    pub(crate) fn read_optional_boolean(&mut self) -> Result<Option<bool>, DecodeError> {
        self.read_header_as("a boolean or nil", |header| match header {
            Header::Boolean(value) => Some(Some(*value)),
            Header::Nil => Some(None),
            _ => None,
        })
    }

    /// Skips the next value if it is nil, and returns whether it was.
    pub(crate) fn skip_nil(&mut self) -> bool {
        let is_nil =
            self.bytes.get(self.position).map(|byte| Marker::from_u8(*byte)) == Some(Marker::Null);
        self.position += usize::from(is_nil);
        is_nil
    }

    /// Skips one value of any type. A counter for each open array or map replaces recursion.
    pub(crate) fn skip_value(&mut self) -> Result<(), DecodeError> {
        // The remaining values of each open container. The message's own map is level 1.
        let mut open = vec![1_usize];
        while let Some(left) = open.last_mut() {
            if *left == 0 {
                open.pop();
                continue;
            }
            *left -= 1;
            let at = self.offset();
            match self.read_header()? {
                Header::Nil | Header::Boolean(_) | Header::Integer(_) => {}
                Header::Text(length) => {
                    self.take_text(length)?;
                }
                Header::Binary(length) | Header::Opaque { length, .. } => {
                    self.take(length)?;
                }
                Header::Array(items) => open.push(items),
                // `read_header` has checked for 2 bytes per entry, so this cannot overflow.
                Header::Map(entries) => open.push(2 * entries),
            }
            if open.len() > MAX_DEPTH {
                return Err(DecodeError::new(at, DecodeErrorKind::TooDeep { limit: MAX_DEPTH }));
            }
        }
        Ok(())
    }

    /// Fails when bytes remain.
    pub(crate) fn expect_end(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(self.error(DecodeErrorKind::TrailingBytes { count })),
        }
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(self.offset(), kind)
    }

    /// Reads a header that `accept` accepts. Otherwise the error has the offset of the value.
    fn read_header_as<T>(
        &mut self,
        expected: &'static str,
        accept: impl Fn(&Header) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let at = self.offset();
        let header = self.read_header()?;
        accept(&header).ok_or_else(|| {
            DecodeError::new(at, DecodeErrorKind::WrongType { expected, found: header.kind() })
        })
    }

    fn read_header(&mut self) -> Result<Header, DecodeError> {
        let marker = Marker::from_u8(self.take_array::<1>()?[0]);
        Ok(match marker {
            Marker::Null => Header::Nil,
            Marker::True => Header::Boolean(true),
            Marker::False => Header::Boolean(false),
            Marker::FixPos(number) => Header::Integer(number.into()),
            Marker::FixNeg(number) => Header::Integer(number.into()),
            Marker::U8 => Header::Integer(u8::from_be_bytes(self.take_array()?).into()),
            Marker::U16 => Header::Integer(u16::from_be_bytes(self.take_array()?).into()),
            Marker::U32 => Header::Integer(u32::from_be_bytes(self.take_array()?).into()),
            Marker::U64 => Header::Integer(u64::from_be_bytes(self.take_array()?).into()),
            Marker::I8 => Header::Integer(i8::from_be_bytes(self.take_array()?).into()),
            Marker::I16 => Header::Integer(i16::from_be_bytes(self.take_array()?).into()),
            Marker::I32 => Header::Integer(i32::from_be_bytes(self.take_array()?).into()),
            Marker::I64 => Header::Integer(i64::from_be_bytes(self.take_array()?).into()),
            Marker::F32 => Header::Opaque { kind: "a float", length: 4 },
            Marker::F64 => Header::Opaque { kind: "a float", length: 8 },
            Marker::FixStr(length) => Header::Text(length.into()),
            Marker::Str8 => Header::Text(self.read_length8()?),
            Marker::Str16 => Header::Text(self.read_length16()?),
            Marker::Str32 => Header::Text(self.read_length32()?),
            Marker::Bin8 => Header::Binary(self.read_length8()?),
            Marker::Bin16 => Header::Binary(self.read_length16()?),
            Marker::Bin32 => Header::Binary(self.read_length32()?),
            Marker::FixArray(items) => Header::Array(self.checked_count(items.into(), 1)?),
            Marker::Array16 => {
                let items = self.read_length16()?;
                Header::Array(self.checked_count(items, 1)?)
            }
            Marker::Array32 => {
                let items = self.read_length32()?;
                Header::Array(self.checked_count(items, 1)?)
            }
            Marker::FixMap(entries) => Header::Map(self.checked_count(entries.into(), 2)?),
            Marker::Map16 => {
                let entries = self.read_length16()?;
                Header::Map(self.checked_count(entries, 2)?)
            }
            Marker::Map32 => {
                let entries = self.read_length32()?;
                Header::Map(self.checked_count(entries, 2)?)
            }
            // MessagePack's extensions: the type takes one more byte.
            Marker::FixExt1 => Self::extension(1),
            Marker::FixExt2 => Self::extension(2),
            Marker::FixExt4 => Self::extension(4),
            Marker::FixExt8 => Self::extension(8),
            Marker::FixExt16 => Self::extension(16),
            Marker::Ext8 => Self::extension(self.read_length8()?),
            Marker::Ext16 => Self::extension(self.read_length16()?),
            Marker::Ext32 => Self::extension(self.read_length32()?),
            Marker::Reserved => {
                self.position -= 1;
                return Err(self.error(DecodeErrorKind::ReservedMarker));
            }
        })
    }

    fn extension(length: usize) -> Header {
        Header::Opaque { kind: "an extension", length: length.saturating_add(1) }
    }

    /// Checks a container's number of items: even the shortest items must fit into the remaining
    /// bytes.
    fn checked_count(&self, count: usize, bytes_each: u64) -> Result<usize, DecodeError> {
        let needed = (count as u64).saturating_mul(bytes_each);
        if needed > self.remaining() as u64 {
            return Err(self.error(DecodeErrorKind::Truncated { needed, left: self.remaining() }));
        }
        Ok(count)
    }

    fn take_text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let at = self.offset();
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            DecodeError::new(at + error.valid_up_to(), DecodeErrorKind::InvalidUtf8)
        })
    }

    fn take_nested(&mut self, length: usize) -> Result<Reader<'a>, DecodeError> {
        let base = self.offset();
        Ok(Reader { bytes: self.take(length)?, position: 0, base })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.position..];
        let Some(taken) = rest.get(..length) else {
            let (needed, left) = (length as u64, rest.len());
            return Err(self.error(DecodeErrorKind::Truncated { needed, left }));
        };
        self.position += length;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn read_length8(&mut self) -> Result<usize, DecodeError> {
        Ok(u8::from_be_bytes(self.take_array()?).into())
    }

    fn read_length16(&mut self) -> Result<usize, DecodeError> {
        Ok(u16::from_be_bytes(self.take_array()?).into())
    }

    fn read_length32(&mut self) -> Result<usize, DecodeError> {
        // Where `usize` has 16 bits, the saturated length fails later as longer than the message.
        Ok(usize::try_from(u32::from_be_bytes(self.take_array()?)).unwrap_or(usize::MAX))
    }
}

/// Converts an integer to 64 bits without a sign. The error has the offset `at`.
pub(crate) fn to_unsigned(found: i128, at: usize) -> Result<u64, DecodeError> {
    u64::try_from(found).map_err(|_| {
        let expected = "an unsigned integer of 64 bits";
        DecodeError::new(at, DecodeErrorKind::OutOfRange { expected, found })
    })
}

/// Reads an array or nil. An error names the item by its index.
pub(crate) fn read_items<'a, T>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Option<Vec<T>>, DecodeError> {
    let Some(count) = reader.read_optional_array_header()? else {
        return Ok(None);
    };
    // No allocation by the claimed length: the peer may claim any.
    let mut items = Vec::new();
    for index in 0..count {
        items.push(read(reader).map_err(|error| error.within(&format!("[{index}]")))?);
    }
    Ok(Some(items))
}

/// Reads a map with text keys: `read` reads each value. An error names the key.
pub(crate) fn for_each_entry<'a>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>, &'a str) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..reader.read_map_header()? {
        let key = reader.read_text().map_err(|error| error.within("(key)"))?;
        read(reader, key).map_err(|error| error.within(key))?;
    }
    Ok(())
}
