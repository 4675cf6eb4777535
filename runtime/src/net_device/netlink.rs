//! As much of rtnetlink(7) as moving a network device takes: find it, set it up or down, move it, list and add
//! addresses. One request at a time; the kernel answers before the call returns.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use wharf_sys::{errno, fs, socket};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Header of a message: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;
/// `ifinfomsg`: family, type, index, flags, change.
const LINK_BYTES: usize = 16;
/// `ifaddrmsg`: family, prefix length, flags, scope, index.
const ADDRESS_BYTES: usize = 8;
/// What the kernel fills at most with one answer.
const BUFFER_BYTES: usize = 32 * 1024;
/// More addresses than this on one device are not carried over; nobody has so many by intent.
const MAX_ADDRESSES: usize = 4096;

/// A device as [`Routes::find`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) up: bool,
}

/// An address of a device, in the kernel's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    /// Attributes that say what the address is: the local and the peer's one, and the broadcast address.
    attributes: Vec<(u16, Vec<u8>)>,
    permanent: bool,
    global: bool,
}

impl Address {
    /// Whether it means the same in another namespace: set by a person, and valid everywhere.
    pub(super) fn is_portable(&self) -> bool {
        self.permanent && self.global
    }
}

/// The network configuration of one namespace: that of the thread which opened it.
pub(super) struct Routes {
    socket: OwnedFd,
    sequence: u32,
}

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: socket::route()?, sequence: 0 })
    }

    pub(super) fn find(&mut self, name: &CStr) -> io::Result<Link> {
        let mut body = link_body(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, name.to_bytes_with_nul());
        let mut found = None;
        self.request(RTM_GETLINK, 0, &body, |kind, body| {
            if kind == RTM_NEWLINK && body.len() >= LINK_BYTES {
                found = Some(Link { index: number(&body[4..8]) as i32, up: number(&body[8..12]) & IFF_UP != 0 });
            }
        })?;
        found.ok_or_else(|| errno::error(errno::ENODEV))
    }

    pub(super) fn set_up(&mut self, link: Link, up: bool) -> io::Result<()> {
        let body = link_body(link.index, if up { IFF_UP } else { 0 }, IFF_UP);
        self.request(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| ())
    }

    /// Moves a device and gives it its name there in one step, so that no other of that name is in the way between.
    pub(super) fn move_to(&mut self, link: Link, name: &CStr, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let mut body = link_body(link.index, 0, 0);
        attribute(&mut body, IFLA_IFNAME, name.to_bytes_with_nul());
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.request(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| ())
    }

    pub(super) fn addresses(&mut self, link: Link) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        self.request(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_BYTES], |kind, body| {
            if kind == RTM_NEWADDR && addresses.len() < MAX_ADDRESSES {
                addresses.extend(parse_address(body, link.index));
            }
        })?;
        Ok(addresses)
    }

    pub(super) fn add_address(&mut self, link: Link, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(link.index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, |_, _| ())
    }

    /// Sends one request and hands every message of the answer to `each`.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        fs::write_once(self.socket.as_fd(), &message)?;
        let several = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = fs::read(self.socket.as_fd(), &mut buffer)?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, after)) = next_message(rest) {
                rest = after;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) {
                            Some(0) => Ok(()),
                            Some(error) => Err(errno::error(error.saturating_neg())),
                            None => Err(errno::error(errno::EINVAL)),
                        };
                    }
                    _ => each(kind, body),
                }
                // An answer that is neither a list nor an acknowledgement is one message.
                if !several && flags & NLM_F_ACK == 0 {
                    return Ok(());
                }
            }
        }
    }
}

fn link_body(index: i32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    body
}

/// Appends an attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Splits the next message off: its type, its body, what follows it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes.get(..4)?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
    let body = bytes.get(HEADER_BYTES..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Splits the next attribute off: its type, its value, what follows it.
fn next_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..4)?.first_chunk()?);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn parse_address(body: &[u8], index: i32) -> Option<Address> {
    let &[family, prefix, flags, scope, a, b, c, d] = body.first_chunk::<ADDRESS_BYTES>()?;
    if i32::from_ne_bytes([a, b, c, d]) != index || !matches!(family, AF_INET | AF_INET6) {
        return None;
    }
    let (mut attributes, mut flags) = (Vec::new(), u32::from(flags));
    let mut rest = &body[ADDRESS_BYTES..];
    while let Some((kind, value, after)) = next_attribute(rest) {
        rest = after;
        match kind {
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
            IFA_FLAGS if value.len() == 4 => flags = number(value),
            _ => {}
        }
    }
    Some(Address {
        family,
        prefix,
        attributes,
        permanent: flags & IFA_F_PERMANENT != 0,
        global: scope == RT_SCOPE_UNIVERSE,
    })
}

/// Four bytes in the machine's order; anything else is zero.
fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_of_this_namespace_is_found() {
        let mut routes = Routes::open().expect("open");
        let link = routes.find(c"lo").expect("find lo");
        assert_eq!(link.index, 1);
        let missing = routes.find(c"no-such-device").expect_err("there is none");
        assert_eq!(missing.raw_os_error(), Some(errno::ENODEV));
        assert!(routes.addresses(link).expect("list").iter().all(|address| !address.attributes.is_empty()));
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let mut body = vec![AF_INET, 24, 0x80, 0, 3, 0, 0, 0];
        attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        attribute(&mut body, 3, b"label\0");
        let address = parse_address(&body, 3).expect("of this device");
        assert!(address.is_portable());
        assert_eq!(address.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(parse_address(&body, 4), None);
        // The wider flags stand for the narrow ones; a link's own scope is not global.
        attribute(&mut body, IFA_FLAGS, &0u32.to_ne_bytes());
        assert!(!parse_address(&body, 3).expect("address").is_portable());
        assert!(!parse_address(&[AF_INET6, 64, 0x80, 253, 3, 0, 0, 0], 3).expect("address").is_portable());
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert!(next_message(&[20, 0, 0, 0, 2, 0]).is_none());
        assert!(next_message(&[3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(next_attribute(&[2, 0, 1, 0]).is_none());
        assert!(next_attribute(&[255, 255, 1, 0, 9]).is_none());
    }
}
