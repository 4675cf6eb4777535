//! Tables of nftables that somebody deletes, told by the kernel (`nfnetlink(7)`, group `NFNLGRP_NFTABLES`).

use std::collections::BTreeSet;
use std::io;

use futures_util::FutureExt as _;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

/// `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`.
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFTA_TABLE_NAME: u16 = 1;
const NFPROTO_IPV4: u8 = 2;
/// `nlmsghdr`, and `nfgenmsg` behind it.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;
/// What may wait to be read: every rule of a transaction is a message.
const BUFFER_BYTES: i32 = 8 << 20;

/// Which tables of IPv4 are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Named(BTreeSet<String>),
    /// More was told than there was room for: it may be any.
    Unknown,
}

impl Gone {
    pub(super) fn may_be(&self, table: &str) -> bool {
        match self {
            Self::Named(names) => names.contains(table),
            Self::Unknown => true,
        }
    }
}

pub(crate) struct TableWatch {
    socket: TokioSocket,
}

impl TableWatch {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        // Only as much as the system allows; with less, an overflow comes sooner.
        let _ = socket.socket_mut().set_rx_buf_sz(BUFFER_BYTES);
        socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
        Ok(Self { socket })
    }

    /// Waits until tables are deleted without being made anew in the same breath.
    pub(crate) async fn next(&self) -> io::Result<Gone> {
        let mut gone = BTreeSet::new();
        loop {
            let read = match gone.is_empty() {
                true => self.socket.recv_from_full().await,
                // What was told together is there together.
                false => match self.socket.recv_from_full().now_or_never() {
                    Some(read) => read,
                    None => return Ok(Gone::Named(gone)),
                },
            };
            match read {
                Ok((bytes, _)) => note(&bytes, &mut gone),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Gone::Unknown);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Adds the tables that messages delete, and takes away those that they make.
fn note(mut bytes: &[u8], gone: &mut BTreeSet<String>) {
    while let Some((message, rest)) = split(bytes, read_u32(bytes).unwrap_or(0) as usize, HEADER_BYTES) {
        bytes = rest;
        let Some(message_type) = read_u16(&message[4..]) else { return };
        if message_type >> 8 != NFNL_SUBSYS_NFTABLES || message.get(HEADER_BYTES) != Some(&NFPROTO_IPV4) {
            continue;
        }
        let Some(name) = message.get(HEADER_BYTES + FAMILY_BYTES..).and_then(table_name) else { continue };
        match message_type & 0xff {
            NFT_MSG_NEWTABLE => drop(gone.remove(&name)),
            NFT_MSG_DELTABLE => drop(gone.insert(name)),
            _ => {}
        }
    }
}

fn table_name(mut attributes: &[u8]) -> Option<String> {
    while let Some((attribute, rest)) = split(attributes, usize::from(read_u16(attributes)?), ATTRIBUTE_BYTES) {
        if read_u16(&attribute[2..])? == NFTA_TABLE_NAME {
            let text = attribute[ATTRIBUTE_BYTES..].split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
        attributes = rest;
    }
    None
}

/// What has `length` with its header of `least`, and what comes after it, four bytes aligned.
fn split(bytes: &[u8], length: usize, least: usize) -> Option<(&[u8], &[u8])> {
    let whole = bytes.get(..length).filter(|_| length >= least)?;
    Some((whole, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, name: &str) -> Vec<u8> {
        let mut attribute = Vec::new();
        attribute.extend(((ATTRIBUTE_BYTES + name.len() + 1) as u16).to_ne_bytes());
        attribute.extend(NFTA_TABLE_NAME.to_ne_bytes());
        attribute.extend(name.as_bytes());
        attribute.push(0);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_BYTES + FAMILY_BYTES + attribute.len()) as u32).to_ne_bytes());
        bytes.extend((NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attribute);
        bytes
    }

    #[test]
    fn a_table_that_is_made_anew_is_not_gone() {
        let mut gone = BTreeSet::new();
        let bytes = [
            message(NFT_MSG_DELTABLE, NFPROTO_IPV4, "one"),
            message(NFT_MSG_DELTABLE, NFPROTO_IPV4, "two"),
            message(NFT_MSG_DELTABLE, 10, "six"),
            message(NFT_MSG_NEWTABLE, NFPROTO_IPV4, "one"),
        ]
        .concat();
        note(&bytes, &mut gone);
        assert_eq!(gone, BTreeSet::from(["two".to_owned()]));
        // Whatever is cut off says nothing.
        for end in 0..bytes.len() {
            note(&bytes[..end], &mut BTreeSet::new());
        }
    }
}
