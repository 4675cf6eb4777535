//! Who a certificate is for: the subject's common name and organizations (X.520), which are a user's name and groups in
//! Kubernetes. Certificates are read here after the handshake has verified that the node's authority signed them.

use rcgen::SigningKey;

use super::TlsError;
use crate::api::access::User;

/// Types of DER (X.690).
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The version of a certificate, which the first one had not.
const VERSION: u8 = 0xa0;

/// `id-at-commonName`, `id-at-organizationName` (RFC 5280, appendix A.1).
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];

/// The user of a certificate; `None` without a name.
pub(super) fn user(certificate: &[u8]) -> Option<User> {
    let parts = signed_parts(certificate)?;
    let mut name = None;
    let mut groups = Vec::new();
    for set in children(parts[SUBJECT].content)? {
        for attribute in children(set.of(SET)?.content)? {
            let [kind, value]: [Element<'_>; 2] = children(attribute.of(SEQUENCE)?.content)?.try_into().ok()?;
            let text = || match value.tag {
                UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(value.content).ok(),
                _ => None,
            };
            match kind.of(OBJECT_IDENTIFIER)?.content {
                COMMON_NAME => name = Some(text()?),
                ORGANIZATION => groups.push(text()?.to_owned()),
                _ => {}
            }
        }
    }
    name.filter(|name| !name.is_empty()).map(|name| User::of(name, groups))
}

/// The certificate for `name` in `groups` instead, signed anew: rcgen writes one organization at most.
pub(super) fn renamed(
    certificate: &[u8],
    name: &str,
    groups: &[String],
    authority: &impl SigningKey,
) -> Result<Vec<u8>, TlsError> {
    let parts = signed_parts(certificate).ok_or(rcgen::Error::CouldNotParseCertificate)?;
    let attribute = |kind: &[u8], text: &str| {
        let pair = [element(OBJECT_IDENTIFIER, kind), element(UTF8_STRING, text.as_bytes())].concat();
        element(SET, &element(SEQUENCE, &pair))
    };
    let mut subject = attribute(COMMON_NAME, name);
    subject.extend(groups.iter().flat_map(|group| attribute(ORGANIZATION, group)));
    let mut signed = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match index {
            SUBJECT => signed.extend(element(SEQUENCE, &subject)),
            _ => signed.extend(element(part.tag, part.content)),
        }
    }
    let signed = element(SEQUENCE, &signed);
    let mut signature = vec![0];
    signature.extend(authority.sign(&signed)?);
    let algorithm = element(SEQUENCE, parts[ALGORITHM].content);
    Ok(element(SEQUENCE, &[signed, algorithm, element(BIT_STRING, &signature)].concat()))
}

/// Where they stand in what is signed (RFC 5280, section 4.1).
const ALGORITHM: usize = 2;
const SUBJECT: usize = 5;

/// What is signed of a certificate.
pub(super) fn signed(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = Element::read(certificate)?;
    Some(children(certificate.of(SEQUENCE)?.content)?.first()?.of(SEQUENCE)?.content)
}

/// The parts of what is signed of a certificate.
fn signed_parts(certificate: &[u8]) -> Option<Vec<Element<'_>>> {
    let (certificate, rest) = Element::read(certificate)?;
    let signed = *children(certificate.of(SEQUENCE)?.content)?.first().filter(|_| rest.is_empty())?;
    let parts = children(signed.of(SEQUENCE)?.content)?;
    (parts.len() > SUBJECT && parts[0].tag == VERSION && parts[SUBJECT].tag == SEQUENCE).then_some(parts)
}

#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first element, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let [tag, first, rest @ ..] = bytes else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // As many bytes of length follow.
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some((Self { tag: *tag, content }, rest))
    }

    fn of(self, tag: u8) -> Option<Self> {
        (self.tag == tag).then_some(self)
    }
}

fn children(mut bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut children = Vec::new();
    while !bytes.is_empty() {
        let (child, rest) = Element::read(bytes)?;
        children.push(child);
        bytes = rest;
    }
    Some(children)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut bytes = vec![tag];
    if content.len() >= 0x80 {
        bytes.push(0x80 | significant.len() as u8);
    }
    bytes.extend(significant);
    bytes.extend(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tls::Authority;
    use std::time::Duration;

    #[test]
    fn a_certificate_says_who_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path()).unwrap();
        let groups: Vec<String> = (0..12).map(|index| format!("group-{index}-{}", "x".repeat(40))).collect();
        for groups in [&[][..], &groups[..1], &groups] {
            let identity = authority.client_identity("alice", groups, Duration::from_secs(60)).unwrap();
            let (certificate, _) = identity.into_der().unwrap();
            let user = user(&certificate).unwrap();
            assert_eq!(user, User::of("alice", groups.to_vec()));
        }
        // One that names nobody, as the server's would if it were a client's.
        assert_eq!(user(b""), None);
        let (server, _) = authority.server_identity(&["a.example".into()]).unwrap().into_der().unwrap();
        assert_eq!(user(&server).map(|user| user.name), Some("wharfd".into()));
        for length in 0..server.len() {
            assert_eq!(user(&server[..length]), None);
        }
    }
}
