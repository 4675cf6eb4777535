//! Values and how they lie in a message (D-Bus Specification, "Type System" and "Marshaling").

use super::Error;

/// A value of a type that systemd's properties have.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    String(String),
    Path(String),
    Signature(String),
    /// Elements of one type, whose signature is kept for an array without any.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl Value {
    /// An array of bytes.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".into(), bytes.iter().copied().map(Value::Byte).collect())
    }

    pub fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::String(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", fields.iter().map(Self::signature).collect::<String>()),
            Self::Variant(_) => "v".into(),
        }
    }

    /// Appends the value. Padding counts from the start of `out`, which must be a multiple of eight bytes into the
    /// message.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        pad(out, alignment(&self.signature()));
        match self {
            Self::Byte(value) => out.push(*value),
            Self::Bool(value) => out.extend(u32::from(*value).to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::Double(value) => out.extend(value.to_le_bytes()),
            Self::String(text) | Self::Path(text) => {
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Self::Signature(text) => write_signature(text, out),
            Self::Array(element, items) => {
                let length_at = out.len();
                out.extend([0; 4]);
                // The padding before the first element does not count, but is there without elements too.
                pad(out, alignment(element));
                let start = out.len();
                items.iter().for_each(|item| item.write(out));
                let length = (out.len() - start) as u32;
                out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Self::Struct(fields) => fields.iter().for_each(|field| field.write(out)),
            Self::Variant(value) => {
                write_signature(&value.signature(), out);
                value.write(out);
            }
        }
    }
}

fn write_signature(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
    out.push(0);
}

pub(super) fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(') => 8,
        _ => 1,
    }
}

/// Reads values out of a message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

const SHORT: Error = Error::Protocol("a message ends too early");

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(count).ok_or(SHORT)?;
        let taken = self.bytes.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.skip_to(N)?;
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    pub(super) fn skip_to(&mut self, alignment: usize) -> Result<(), Error> {
        self.take(self.at.next_multiple_of(alignment) - self.at).map(drop)
    }

    fn text(&mut self, length: usize) -> Result<String, Error> {
        let bytes = self.take(length)?;
        self.take(1)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::Protocol("a text is not UTF-8"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn signature(&mut self) -> Result<String, Error> {
        let length = self.byte()?;
        self.text(length.into())
    }

    /// The next value, of the type that `signature` begins with, which is taken off. Containers but for variants are
    /// not read: nothing that is asked of systemd answers with one.
    pub(super) fn value(&mut self, signature: &mut &str) -> Result<Value, Error> {
        let mut types = signature.chars();
        let kind = types.next().ok_or(Error::Protocol("a signature is empty"))?;
        *signature = types.as_str();
        Ok(match kind {
            'y' => Value::Byte(self.byte()?),
            'b' => Value::Bool(self.u32()? != 0),
            'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            'u' | 'h' => Value::U32(self.u32()?),
            'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            't' => Value::U64(u64::from_le_bytes(self.number()?)),
            'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            's' | 'o' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if kind == 's' { Value::String(text) } else { Value::Path(text) }
            }
            'g' => Value::Signature(self.signature()?),
            'v' => {
                let inner = self.signature()?;
                // A variant in a variant could go on for ever.
                if inner.starts_with('v') {
                    return Err(Error::Protocol("a variant holds a variant"));
                }
                Value::Variant(Box::new(self.value(&mut inner.as_str())?))
            }
            _ => return Err(Error::Protocol("an answer has a type that is not read here")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_as_the_specification_says() {
        let mut out = Vec::new();
        Value::from("foo").write(&mut out);
        assert_eq!(out, b"\x03\0\0\0foo\0");
        Value::from("+").write(&mut out);
        // An array of 64-bit numbers: length at a multiple of four, elements at one of eight.
        Value::Array("t".into(), vec![Value::U64(5)]).write(&mut out);
        assert_eq!(out[8..], *b"\x01\0\0\0+\0\0\0\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"[..24].to_vec());
    }

    #[test]
    fn a_property_is_a_struct_of_name_and_variant() {
        let property = Value::Struct(vec!["A".into(), Value::Variant(Box::new(Value::Bool(true)))]);
        assert_eq!(property.signature(), "(sv)");
        let mut out = Vec::new();
        property.write(&mut out);
        assert_eq!(out, b"\x01\0\0\0A\0\x01b\0\0\0\0\x01\0\0\0");
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut out = Vec::new();
        Value::from("text").write(&mut out);
        for length in 0..out.len() {
            assert!(Reader::new(&out[..length]).value(&mut "s").is_err(), "{length}");
        }
        assert_eq!(Reader::new(&out).value(&mut "s").expect("whole"), Value::from("text"));
        assert!(Reader::new(&[255; 8]).value(&mut "s").is_err());
        assert!(Reader::new(b"\x01v\0\x01v\0").value(&mut "v").is_err());
    }
}
