//! Tables of nftables that somebody deletes, told by the kernel (`nfnetlink(7)`, group `NFNLGRP_NFTABLES`).

use std::collections::BTreeSet;
use std::io;

use futures_util::FutureExt as _;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

use super::netlink_message::{find, messages};
use super::nft::{Family, Table};

/// `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`.
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFTA_TABLE_NAME: u16 = 1;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
/// `nfgenmsg`, before the attributes.
const FAMILY_BYTES: usize = 4;
/// What may wait to be read: every rule of a transaction is a message.
const BUFFER_BYTES: i32 = 8 << 20;

/// Which tables are gone, of those that may be ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Named(BTreeSet<Table>),
    /// More was told than there was room for: it may be any.
    Unknown,
}

impl Gone {
    pub(super) fn may_be(&self, table: &Table) -> bool {
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
fn note(bytes: &[u8], gone: &mut BTreeSet<Table>) {
    for (message_type, body) in messages(bytes) {
        let family = match body.first() {
            _ if message_type >> 8 != NFNL_SUBSYS_NFTABLES => continue,
            Some(&NFPROTO_INET) => Family::Inet,
            Some(&NFPROTO_IPV4) => Family::Ip,
            _ => continue,
        };
        let Some(name) = body.get(FAMILY_BYTES..).and_then(table_name) else { continue };
        let table = Table { family, name };
        match message_type & 0xff {
            NFT_MSG_NEWTABLE => drop(gone.remove(&table)),
            NFT_MSG_DELTABLE => drop(gone.insert(table)),
            _ => {}
        }
    }
}

fn table_name(attributes: &[u8]) -> Option<String> {
    let text = find(attributes, NFTA_TABLE_NAME)?.split(|byte| *byte == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::netlink_message::{self, attribute};
    use super::*;

    fn message(kind: u16, family: u8, name: &str) -> Vec<u8> {
        let attribute = attribute(NFTA_TABLE_NAME, format!("{name}\0").as_bytes());
        netlink_message::message(NFNL_SUBSYS_NFTABLES << 8 | kind, 0, &[vec![family, 0, 0, 0], attribute].concat())
    }

    #[test]
    fn a_table_that_is_made_anew_is_not_gone() {
        let mut gone = BTreeSet::new();
        let bytes = [
            message(NFT_MSG_DELTABLE, NFPROTO_IPV4, "one"),
            message(NFT_MSG_DELTABLE, NFPROTO_IPV4, "two"),
            message(NFT_MSG_DELTABLE, 10, "six"),
            message(NFT_MSG_NEWTABLE, NFPROTO_IPV4, "one"),
            // The same name, and another table.
            message(NFT_MSG_NEWTABLE, NFPROTO_INET, "two"),
        ]
        .concat();
        note(&bytes, &mut gone);
        assert_eq!(gone, BTreeSet::from([Table { family: Family::Ip, name: "two".into() }]));
    }
}
