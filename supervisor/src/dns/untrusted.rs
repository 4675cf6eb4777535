//! What pods and name servers send, as functions of bytes: what a fuzz target and the test here call. None of it may
//! panic or take long, whatever the bytes are. Not part of the interface.

use std::sync::LazyLock;

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use serde_json::json;

use super::answer::{Answer, Query, Transport};
use super::server::Server;
use super::upstream::Upstream;
use super::zone::Zone;
use crate::api::object_store::{Key, ObjectStore};

/// A service, one without an address of its own, one that is an alias, and a pod.
static ZONE: LazyLock<Option<Zone>> = LazyLock::new(|| {
    let service = |name: &str, spec| {
        let object = json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
        (Key::new("services", "a", name), object)
    };
    let port = json!([{"name": "http", "port": 80}]);
    let slice = json!({
        "metadata": {"name": "none-x", "namespace": "a", "labels": {"kubernetes.io/service-name": "none"}},
        "ports": port,
        "endpoints": [{"addresses": ["10.88.0.2"]}, {"addresses": ["fd00::2"], "hostname": "b"}],
    });
    let objects = [
        service("web", json!({"clusterIP": "10.89.0.9", "ports": port})),
        service("none", json!({"clusterIP": "None", "ports": port})),
        service("far", json!({"type": "ExternalName", "externalName": "example.com"})),
        (Key::new("namespaces", "", "a"), json!({"metadata": {"name": "a"}})),
        (Key::new("endpointslices.discovery.k8s.io", "a", "none-x"), slice),
        (Key::new("pods", "a", "p"), json!({"status": {"podIPs": [{"ip": "10.88.0.2"}]}})),
    ];
    Some(Zone::new(ObjectStore::in_memory(objects).ok()?, "cluster.local"))
});

/// A datagram: as a query, answered at once or as if `bytes` were what an upstream server says. True if there was an
/// answer.
pub fn datagram(bytes: &[u8]) -> bool {
    let Some(zone) = &*ZONE else { return false };
    let server = Server::new(zone.clone(), Upstream::new(Vec::new()));
    for transport in [Transport::Udp, Transport::Tcp] {
        let query = match Query::parse(bytes, transport) {
            Ok(query) => query,
            Err(answer) => return answer.is_some(),
        };
        if let Some(answer) = server.answer_at_once(&query) {
            assert!(Message::from_octets(answer).is_ok_and(|answer| answer.header().qr()));
        }
    }
    let Ok(foreign) = Message::from_octets(bytes) else { return false };
    let Some(asked) = super::answer::query("far.a.svc.cluster.local", Rtype::A) else {
        return false;
    };
    let Ok(query) = Query::parse(&asked, Transport::Udp) else { return false };
    let answer = Answer { foreign: Some(foreign), ..Answer::of(Rcode::NOERROR) };
    Message::from_octets(query.answer(zone, &answer)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::MessageBuilder;

    /// What resolvers ask.
    fn seeds() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for (name, rtype) in [
            ("web.a.svc.cluster.local", Rtype::A),
            ("_http._tcp.none.a.svc.cluster.local", Rtype::SRV),
            ("far.a.svc.cluster.local", Rtype::AAAA),
            ("2.0.88.10.in-addr.arpa", Rtype::PTR),
            ("nobody.a.svc.cluster.local", Rtype::ANY),
        ] {
            seeds.extend(crate::dns::answer::query(name, rtype));
        }
        if let Some(first) = seeds.first().cloned()
            && let Ok(message) = Message::from_octets(first.as_slice())
            && let Ok(question) = message.sole_question()
        {
            let mut with_options = MessageBuilder::new_vec().question();
            let _ = with_options.push(question);
            let mut with_options = with_options.additional();
            let _ = with_options.opt(|opt| {
                opt.set_udp_payload_size(4096);
                Ok(())
            });
            seeds.push(with_options.finish());
        }
        seeds
    }

    #[test]
    fn no_datagram_is_too_strange() {
        for seed in seeds() {
            for length in 0..seed.len() {
                datagram(&seed[..length]);
            }
            for at in 0..seed.len() {
                for flip in [1, 0x20, 0x80, 0xc0, 0xff] {
                    let mut changed = seed.clone();
                    changed[at] ^= flip;
                    datagram(&changed);
                }
            }
            assert!(datagram(&seed));
        }
    }
}
