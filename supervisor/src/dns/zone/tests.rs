use super::*;
use serde_json::json;

fn zone() -> Zone {
    let service = |name: &str, spec: Value| {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        (Key::new("services", "shop", name), object)
    };
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "db"}, "namespace": "shop"},
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.88.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.88.0.6"], "conditions": {}},
            {"addresses": ["10.88.0.7"], "conditions": {"ready": false}},
        ],
    });
    let ports =
        json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let objects = [
        service("web", json!({"clusterIP": "10.89.0.10", "clusterIPs": ["10.89.0.10", "fd89::10"], "ports": ports})),
        service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]})),
        service("out", json!({"type": "ExternalName", "externalName": "Example.com."})),
        (Key::new("namespaces", "", "shop"), json!({})),
        (Key::new("endpointslices.discovery.k8s.io", "shop", "db-x"), slice),
        (Key::new("pods", "shop", "p"), json!({"status": {"podIPs": [{"ip": "10.88.0.5"}]}})),
    ];
    Zone::new(ObjectStore::in_memory(objects).unwrap(), "cluster.local")
}

fn address(text: &str) -> Data {
    Data::Address(text.parse().unwrap())
}

fn server(port: u16, target: &str) -> Data {
    Data::Server { port, target: target.into() }
}

#[test]
fn a_service_has_its_addresses_and_a_headless_one_those_of_its_ready_endpoints() {
    let zone = zone();
    let find = |name: &str, rtype| zone.find(&format!("{name}.shop.svc.cluster.local"), rtype);
    assert_eq!(find("web", Rtype::A), Found::Records(vec![address("10.89.0.10")]));
    assert_eq!(find("web", Rtype::AAAA), Found::Records(vec![address("fd89::10")]));
    assert_eq!(find("web", Rtype::TXT), Found::NoData);
    assert_eq!(find("db", Rtype::A), Found::Records(vec![address("10.88.0.5"), address("10.88.0.6")]));
    assert_eq!(find("db", Rtype::AAAA), Found::NoData);
    assert_eq!(find("db-0.db", Rtype::A), Found::Records(vec![address("10.88.0.5")]));
    assert_eq!(find("10-88-0-6.db", Rtype::A), Found::Records(vec![address("10.88.0.6")]));
    assert_eq!(find("10-88-0-7.db", Rtype::A), Found::NoName);
    assert_eq!(find("out", Rtype::A), Found::Alias("example.com".into()));
    assert_eq!(find("cart", Rtype::A), Found::NoName);
    assert_eq!(zone.find("web.depot.svc.cluster.local", Rtype::A), Found::NoName);
}

#[test]
fn ports_are_told_with_the_name_that_has_them() {
    let zone = zone();
    let find = |name: &str| zone.find(&format!("{name}.shop.svc.cluster.local"), Rtype::SRV);
    assert_eq!(find("_http._tcp.web"), Found::Records(vec![server(80, "web.shop.svc.cluster.local")]));
    let of_db = ["db-0", "10-88-0-6"].map(|label| server(5432, &format!("{label}.db.shop.svc.cluster.local")));
    assert_eq!(find("_sql._tcp.db"), Found::Records(of_db.to_vec()));
    assert_eq!(find("_dns._tcp.web"), Found::NoName);
    assert_eq!(find("_tcp.web"), Found::NoData);
    assert_eq!(find("http.tcp.web"), Found::NoName);
}

#[test]
fn addresses_lead_back_to_names_and_those_of_others_are_not_ours() {
    let zone = zone();
    let pointer = |name: &str| Found::Records(vec![Data::Pointer(name.into())]);
    assert_eq!(zone.find("10.0.89.10.in-addr.arpa", Rtype::PTR), pointer("web.shop.svc.cluster.local"));
    assert_eq!(zone.find("5.0.88.10.in-addr.arpa", Rtype::PTR), pointer("db-0.db.shop.svc.cluster.local"));
    let reverse = format!("0.1.{}9.8.d.f.ip6.arpa", "0.".repeat(26));
    assert_eq!(zone.find(&reverse, Rtype::PTR), pointer("web.shop.svc.cluster.local"));
    for name in ["1.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa", "x.in-addr.arpa", "ip6.arpa", "example.com", ""] {
        assert_eq!(zone.find(name, Rtype::PTR), Found::Elsewhere, "{name}");
    }
    assert_eq!(zone.find("mycluster.local", Rtype::A), Found::Elsewhere);
}

#[test]
fn pods_are_found_by_addresses_that_they_have() {
    let zone = zone();
    let find = |name: &str| zone.find(&format!("{name}.pod.cluster.local"), Rtype::A);
    assert_eq!(find("10-88-0-5.shop"), Found::Records(vec![address("10.88.0.5")]));
    assert_eq!(find("10-88-0-6.shop"), Found::NoName);
    assert_eq!(find("10-88-0-5.depot"), Found::NoName);
    assert_eq!(find("shop"), Found::NoData);
    assert_eq!(find("depot"), Found::NoName);
}

#[test]
fn the_domain_itself_says_who_serves_it() {
    let zone = zone();
    assert_eq!(
        zone.find("cluster.local", Rtype::NS),
        Found::Records(vec![Data::NameServer("ns.dns.cluster.local".into())])
    );
    assert_eq!(zone.find("cluster.local", Rtype::SOA), Found::Records(vec![Data::Authority]));
    assert_eq!(zone.find("dns-version.cluster.local", Rtype::TXT), Found::Records(vec![Data::Text("1.1.0".into())]));
    assert_eq!(zone.find("svc.cluster.local", Rtype::A), Found::NoData);
    assert_eq!(zone.find("a.b.c.cluster.local", Rtype::A), Found::NoName);
}
