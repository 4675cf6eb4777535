//! The framing of netlink messages and of their attributes (netlink(7)), for what rtnetlink has no types for.

/// `nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `nlattr`.
const ATTRIBUTE_BYTES: usize = 4;
/// The upper bits of an attribute's type say how it is written, not what it is.
const TYPE_BITS: u16 = 0x3fff;
/// Of an attribute that consists of others.
pub(super) const NESTED: u16 = 0x8000;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;

/// Type and body of each message; what is cut off is none.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..length)?;
        let message_type = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((message_type, message.get(HEADER_BYTES..)?))
    })
}

/// Type and value of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let attribute = bytes.get(..length)?;
        let attribute_type = u16::from_ne_bytes(*attribute.get(2..)?.first_chunk()?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((attribute_type & TYPE_BITS, attribute.get(ATTRIBUTE_BYTES..)?))
    })
}

/// The first attribute of a type.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(attribute_type, _)| *attribute_type == wanted).map(|(_, value)| value)
}

pub(super) fn message(message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(message_type.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port, of which a socket with one question at a time has no need.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

pub(super) fn attribute(attribute_type: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((ATTRIBUTE_BYTES + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(attribute_type.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_off_ends_it() {
        let body = [attribute(1 | NESTED, b"abc"), attribute(2, b"")].concat();
        let bytes = [message(7, NLM_F_ACK, &body), message(8, 0, b"")].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read, [(7, body.as_slice()), (8, b"".as_slice())]);
        assert_eq!(attributes(&body).collect::<Vec<_>>(), [(1, b"abc".as_slice()), (2, b"".as_slice())]);
        for end in 0..bytes.len() {
            assert!(messages(&bytes[..end]).flat_map(|(_, body)| attributes(body)).count() <= 2);
        }
        // A length that leads nowhere.
        assert_eq!(messages(&[0; 32]).count(), 0);
        assert_eq!(attributes(&[0; 32]).count(), 0);
    }
}
