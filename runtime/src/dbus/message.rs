//! Messages: a header with typed fields, and the arguments (D-Bus Specification, "Message Format").

use super::value::{Reader, pad};
use super::{Error, Target, Value};
use std::io::Read;

/// More than systemd ever answers, and little enough to be given memory.
const MOST_BYTES: u32 = 1 << 20;
const VERSION: u8 = 1;
const CALL: u8 = 1;
/// What precedes the array of fields: eight bytes, serial, and the array's length.
const FIXED: usize = 16;

/// Codes of header fields.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// A method call to be sent.
pub(super) struct Call<'a> {
    pub(super) target: Target<'a>,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [Value],
    pub(super) serial: u32,
}

impl Call<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| argument.write(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let mut fields = vec![
            (field::PATH, Value::Path(self.target.path.into())),
            (field::INTERFACE, self.target.interface.into()),
            (field::MEMBER, self.member.into()),
            (field::DESTINATION, self.target.destination.into()),
        ];
        if !signature.is_empty() {
            fields.push((field::SIGNATURE, Value::Signature(signature)));
        }
        let fields = fields
            .into_iter()
            .map(|(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]));
        let mut out = vec![b'l', CALL, 0, VERSION];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(self.serial.to_le_bytes());
        Value::Array("(yv)".into(), fields.collect()).write(&mut out);
        pad(&mut out, 8);
        out.extend(body);
        out
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reply,
    Error,
    Signal,
    /// Calls of others, and kinds of the future.
    Other,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error_name: String,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    pub(super) fn read(stream: &mut impl Read) -> Result<Self, Error> {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed)?;
        if fixed[0] != b'l' || fixed[3] != VERSION {
            return Err(Error::Protocol("a message is not of version 1 and little-endian"));
        }
        let kind = match fixed[1] {
            2 => Kind::Reply,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let mut reader = Reader::new(&fixed[4..]);
        let (body_length, _serial, fields_length) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if body_length > MOST_BYTES || fields_length > MOST_BYTES {
            return Err(Error::Protocol("a message is longer than a mebibyte"));
        }
        let mut fields = vec![0; (fields_length as usize).next_multiple_of(8)];
        stream.read_exact(&mut fields)?;
        let mut body = vec![0; body_length as usize];
        stream.read_exact(&mut body)?;
        let mut message = Self {
            kind,
            reply_to: 0,
            member: String::new(),
            error_name: String::new(),
            signature: String::new(),
            body,
        };
        let mut reader = Reader::new(&fields[..fields_length as usize]);
        while !reader.at_end() {
            reader.skip_to(8)?;
            let code = reader.byte()?;
            let Value::Variant(value) = reader.value(&mut "v")? else { continue };
            match (code, *value) {
                (field::REPLY_SERIAL, Value::U32(serial)) => message.reply_to = serial,
                (field::MEMBER, Value::String(name)) => message.member = name,
                (field::ERROR_NAME, Value::String(name)) => message.error_name = name,
                (field::SIGNATURE, Value::Signature(signature)) => message.signature = signature,
                _ => {}
            }
        }
        Ok(message)
    }

    pub(super) fn arguments(&self) -> Result<Vec<Value>, Error> {
        let (mut reader, mut signature) = (Reader::new(&self.body), self.signature.as_str());
        let mut arguments = Vec::new();
        while !signature.is_empty() {
            arguments.push(reader.value(&mut signature)?);
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_back() {
        let target = Target { destination: "a.b", path: "/a", interface: "a.c" };
        let arguments = [Value::from("x"), Value::U32(7)];
        let bytes = Call { target, member: "Do", arguments: &arguments, serial: 3 }.encode();
        let message = Message::read(&mut bytes.as_slice()).expect("read");
        assert_eq!((message.kind, message.member.as_str()), (Kind::Other, "Do"));
        assert_eq!(message.arguments().expect("arguments"), arguments);
        for length in 0..bytes.len() {
            assert!(Message::read(&mut &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_length_that_is_too_great_is_refused_before_it_is_read() {
        let mut bytes = vec![b'l', 2, 0, 1];
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.extend([0; 8]);
        assert!(matches!(Message::read(&mut bytes.as_slice()), Err(Error::Protocol(_))));
    }
}
