//! Messages: a query read, and what is said to it (RFC 1035, EDNS of RFC 6891).

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::name::FlattenInto;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Serial, TreeCompressor, Ttl};
use domain::rdata::{A, Aaaa, AllRecordData, Cname, Ns, Ptr, Soa, Srv, Txt};

use super::zone::{Data, Zone};

/// How long a record of ours may be remembered: as long as cluster DNS lets it be elsewhere.
const TTL: Ttl = Ttl::from_secs(5);
/// What a resolver without EDNS takes by UDP (RFC 1035, 4.2.1).
const PLAIN_UDP_BYTES: u16 = 512;
/// What passes every link without fragments.
const MAX_UDP_BYTES: u16 = 1232;
/// An OPT record without options.
const OPT_BYTES: usize = 11;

/// How a query came, and so how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A question of class IN, alone in its message.
pub(super) struct Query<'a> {
    message: Message<&'a [u8]>,
    /// In lower case and without a dot at its end.
    pub(super) name: String,
    pub(super) rtype: Rtype,
    limit: usize,
}

/// What is told: aliases from the name asked for on, then what the last of them has.
pub(super) struct Answer<'a> {
    pub(super) rcode: Rcode,
    pub(super) aliases: Vec<(String, String)>,
    pub(super) records: Vec<Data>,
    /// Records of somebody else's, after the last alias.
    pub(super) foreign: Option<Message<&'a [u8]>>,
}

impl Answer<'_> {
    pub(super) fn of(rcode: Rcode) -> Self {
        Self { rcode, aliases: Vec::new(), records: Vec::new(), foreign: None }
    }
}

impl<'a> Query<'a> {
    /// Reads a message. What is no query gets no answer, and one that is not understood gets the one in `Err`.
    pub(super) fn parse(bytes: &'a [u8], transport: Transport) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_octets(bytes).map_err(|_| None)?;
        if message.header().qr() {
            return Err(None);
        }
        let refuse = |rcode| Some(error(&message, rcode));
        if message.header().opcode() != Opcode::QUERY {
            return Err(refuse(Rcode::NOTIMP));
        }
        let question = message.sole_question().map_err(|_| refuse(Rcode::FORMERR))?;
        // A message is read to its end before anything is done for it.
        let additional = message.additional().map_err(|_| refuse(Rcode::FORMERR))?;
        if additional.into_iter().any(|record| record.is_err()) {
            return Err(refuse(Rcode::FORMERR));
        }
        if !matches!(question.qclass(), Class::IN | Class::ANY) || question.qtype() == Rtype::AXFR {
            return Err(refuse(Rcode::REFUSED));
        }
        let limit = match (transport, message.opt()) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(PLAIN_UDP_BYTES),
            (Transport::Udp, Some(opt)) => usize::from(opt.udp_payload_size().clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES)),
        };
        let name = question.qname().to_string().trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { message, name, rtype: question.qtype(), limit })
    }

    pub(super) fn message(&self) -> &Message<&'a [u8]> {
        &self.message
    }

    /// The whole answer; where it does not fit, one that says so, and the client asks by TCP.
    pub(super) fn answer(&self, zone: &Zone, answer: &Answer<'_>) -> Vec<u8> {
        self.build(zone, answer).unwrap_or_else(|_| {
            let mut builder = start(&self.message, answer.rcode);
            builder.header_mut().set_tc(true);
            self.finish(builder.additional())
        })
    }

    fn build(&self, zone: &Zone, answer: &Answer<'_>) -> Result<Vec<u8>, PushError> {
        let mut builder = start(&self.message, answer.rcode);
        builder.set_push_limit(self.limit - OPT_BYTES);
        builder.header_mut().set_aa(answer.foreign.is_none());
        let mut owner = self.name.as_str();
        for (from, to) in &answer.aliases {
            builder.push((name(from), Class::IN, TTL, Cname::new(name(to))))?;
            owner = to;
        }
        let owner = name(owner);
        // Clients take the first: another one each time.
        let records = &answer.records;
        let first = usize::from(self.message.header().id()) % records.len().max(1);
        for record in records[first..].iter().chain(&records[..first]) {
            push(&mut builder, &owner, record, zone)?;
        }
        if let Some(foreign) = answer.foreign {
            copy_answers(&foreign, &mut builder)?;
        } else if records.is_empty() {
            let mut authority = builder.authority();
            authority.push((name(zone.domain()), Class::IN, TTL, authority_of(zone)))?;
            return Ok(self.finish(authority.additional()));
        }
        let mut additional = builder.additional();
        for record in records {
            if let Data::Server { target, .. } = record {
                // A courtesy: what does not fit is asked for.
                let _ = push_addresses(&mut additional, target, zone);
            }
        }
        Ok(self.finish(additional))
    }

    /// With EDNS where the client speaks it.
    fn finish(&self, mut additional: AdditionalBuilder<TreeCompressor<Vec<u8>>>) -> Vec<u8> {
        additional.clear_push_limit();
        if self.message.opt().is_some() {
            // Building in memory fails for no length that the limit allows.
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(MAX_UDP_BYTES);
                Ok(())
            });
        }
        additional.finish().into_target()
    }
}

/// An answer without records.
pub(super) fn error(query: &Message<&[u8]>, rcode: Rcode) -> Vec<u8> {
    start(query, rcode).additional().finish().into_target()
}

/// A query of our own for the addresses, or whatever `rtype` is, of a name; none where it is no name.
pub(super) fn query(of: &str, rtype: Rtype) -> Option<Vec<u8>> {
    let name = Name::<Vec<u8>>::vec_from_str(of).ok()?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, rtype, Class::IN)).ok()?;
    Some(builder.finish())
}

fn start(query: &Message<&[u8]>, rcode: Rcode) -> AnswerBuilder<TreeCompressor<Vec<u8>>> {
    let builder = MessageBuilder::from_target(TreeCompressor::new(Vec::new())).unwrap_or_else(|never| match never {});
    let mut builder = builder.start_error(query, rcode);
    builder.header_mut().set_ra(true);
    builder
}

fn push(
    builder: &mut AnswerBuilder<TreeCompressor<Vec<u8>>>,
    owner: &Name<Vec<u8>>,
    data: &Data,
    zone: &Zone,
) -> Result<(), PushError> {
    match data {
        Data::Address(IpAddr::V4(address)) => builder.push((owner, Class::IN, TTL, A::new(*address))),
        Data::Address(IpAddr::V6(address)) => builder.push((owner, Class::IN, TTL, Aaaa::new(*address))),
        Data::Server { port, target } => builder.push((owner, Class::IN, TTL, Srv::new(0, 100, *port, name(target)))),
        Data::Pointer(target) => builder.push((owner, Class::IN, TTL, Ptr::new(name(target)))),
        Data::NameServer(target) => builder.push((owner, Class::IN, TTL, Ns::new(name(target)))),
        Data::Text(text) => match Txt::<Vec<u8>>::build_from_slice(text.as_bytes()) {
            Ok(text) => builder.push((owner, Class::IN, TTL, text)),
            Err(_) => Ok(()),
        },
        Data::Authority => builder.push((owner, Class::IN, TTL, authority_of(zone))),
    }
}

fn push_addresses(
    additional: &mut AdditionalBuilder<TreeCompressor<Vec<u8>>>,
    of: &str,
    zone: &Zone,
) -> Result<(), PushError> {
    let owner = name(of);
    for rtype in [Rtype::A, Rtype::AAAA] {
        let super::zone::Found::Records(records) = zone.find(of, rtype) else { continue };
        for record in records {
            match record {
                Data::Address(IpAddr::V4(address)) => additional.push((&owner, Class::IN, TTL, A::new(address)))?,
                Data::Address(IpAddr::V6(address)) => additional.push((&owner, Class::IN, TTL, Aaaa::new(address)))?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn copy_answers(from: &Message<&[u8]>, builder: &mut AnswerBuilder<TreeCompressor<Vec<u8>>>) -> Result<(), PushError> {
    let Ok(section) = from.answer() else { return Ok(()) };
    for record in section.limit_to::<AllRecordData<_, ParsedName<_>>>().flatten() {
        builder.push(record)?;
    }
    Ok(())
}

fn authority_of(zone: &Zone) -> Soa<Name<Vec<u8>>> {
    let times = [7200, 1800, 86400].map(Ttl::from_secs);
    let mailbox = name(&format!("hostmaster.{}", zone.domain()));
    Soa::new(name(&zone.name_server()), mailbox, Serial(1), times[0], times[1], times[2], TTL)
}

/// The root where it is no name: an object with such a name was refused.
fn name(text: &str) -> Name<Vec<u8>> {
    Name::vec_from_str(text).unwrap_or_else(|_| Name::root_ref().flatten_into())
}
