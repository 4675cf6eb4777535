use super::*;
use crate::network::nft::Family;
use crate::pod::spec::Protocol;

fn frontend(endpoints: &[&str]) -> Frontend {
    let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
    let backends = Backends { endpoints, ..Backends::default() };
    Frontend {
        service: "default/web".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: "10.96.0.9".parse().unwrap(),
        external_ips: Vec::new(),
        guarded_ips: Vec::new(),
        sources: Vec::new(),
        node_port: Some(30_080),
        affinity_seconds: None,
        internal: backends.clone(),
        external: backends,
    }
}

fn rendered_in(six: Option<&str>, frontends: Vec<Frontend>, before: &Contents) -> (String, Contents) {
    let four = Subnet::parse("service_subnet", "10.96.0.0/16").unwrap();
    let six = six.map(|six| Subnet::parse6("service_subnet6", six).unwrap());
    let table = Table { family: Family::of(six.is_some()), name: "t".into() };
    render(&table, &ServiceSubnets { four, six }, &Wanted { frontends, masquerade_all: false }, before)
}

fn rendered(frontends: Vec<Frontend>, before: &Contents) -> (String, Contents) {
    rendered_in(None, frontends, before)
}

#[test]
fn a_service_of_both_families_has_chains_of_each() {
    let four = frontend(&["10.88.0.2:80"]);
    let six = Frontend {
        cluster_ip: "fd96::9".parse().unwrap(),
        affinity_seconds: Some(60),
        ..frontend(&["[fd88::2]:80", "[fd88::3]:80"])
    };
    let idle = Frontend { port: 81, cluster_ip: "fd96::9".parse().unwrap(), ..frontend(&[]) };
    let both = vec![four, six, idle];
    let (script, contents) = rendered_in(Some("fd96::/108"), both.clone(), &Contents::default());
    for line in [
        "add map inet t services6 { type ipv6_addr . inet_proto . inet_service : verdict; }",
        "add rule inet t dispatch fib daddr type local meta nfproto ipv4 meta l4proto . th dport vmap @node-ports",
        "add rule inet t dispatch fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @node-ports6",
        "add rule inet t unserved ip6 daddr fd96::/108 jump refuse",
        "add element inet t services { 10.96.0.9 . tcp . 80 : goto in-default/web/tcp/80 }",
        "add element inet t services6 { fd96::9 . tcp . 80 : goto in6-default/web/tcp/80 }",
        "add element inet t node-ports6 { tcp . 30080 : goto ex6-default/web/tcp/80 }",
        "add element inet t idle6 { fd96::9 . tcp . 81 : goto refuse }",
        "add set inet t cl-default/web/tcp/80-fd88--2/80/60 { type ipv6_addr; size 65535; flags dynamic,timeout; timeout 60s; }",
        "add rule inet t in6-default/web/tcp/80 ip6 saddr @cl-default/web/tcp/80-fd88--3/80/60 goto ep-default/web/tcp/80-fd88--3/80",
        "add rule inet t ep-default/web/tcp/80-fd88--2/80 meta l4proto tcp dnat ip6 to [fd88::2]:80",
    ] {
        assert!(script.lines().any(|found| found == line), "{line}: {script}");
    }
    assert!(contents.chains.contains("in-default/web/tcp/80") && contents.chains.contains("in6-default/web/tcp/80"));
    // Without a subnet of IPv6 the table sees none of it.
    let (script, _) = rendered(both, &Contents::default());
    assert!(!script.contains("ip6") && !script.contains("fd96"), "{script}");
}

#[test]
fn connections_are_spread_over_the_endpoints() {
    let (script, contents) = rendered(vec![frontend(&["10.88.0.2:8080", "10.88.0.3:8080"])], &Contents::default());
    for line in [
        "add rule ip t in-default/web/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.88.0.2 . 8080, 1 : 10.88.0.3 . 8080 }",
        "add element ip t services { 10.96.0.9 . tcp . 80 : goto in-default/web/tcp/80 }",
        "add element ip t node-ports { tcp . 30080 : goto ex-default/web/tcp/80 }",
    ] {
        assert!(script.lines().any(|found| found == line), "{script}");
    }
    assert!(contents.chains.contains("ex-default/web/tcp/80"));
}

#[test]
fn without_endpoints_connections_are_refused_or_dropped() {
    let mut lonely = frontend(&[]);
    lonely.external = Backends { local_only: true, elsewhere: true, ..Backends::default() };
    let (script, _) = rendered(vec![lonely], &Contents::default());
    assert!(script.contains("add element ip t idle { 10.96.0.9 . tcp . 80 : goto refuse }\n"), "{script}");
    assert!(script.contains("add element ip t idle-node-ports { tcp . 30080 : drop }\n"), "{script}");
    assert!(!script.contains("add chain ip t in-"), "{script}");
    // Where there is none at all, there is nobody to wait for.
    let mut idle = frontend(&[]);
    idle.external.local_only = true;
    let (script, _) = rendered(vec![idle], &Contents::default());
    assert!(script.contains("add element ip t idle-node-ports { tcp . 30080 : goto refuse }\n"), "{script}");
}

#[test]
fn an_address_that_several_services_claim_is_one_s() {
    let external = |name: &str, endpoints: &[&str], ips: &[&str]| Frontend {
        service: format!("default/{name}"),
        cluster_ip: format!("10.96.0.{}", name.len()).parse().unwrap(),
        external_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..frontend(endpoints)
    };
    let all = vec![
        external("a", &["10.88.0.2:80"], &["192.0.2.7", "10.96.0.3"]),
        external("bb", &["10.88.0.3:80"], &["192.0.2.7"]),
        external("ccc", &[], &["192.0.2.7"]),
    ];
    let (script, _) = rendered(all, &Contents::default());
    let elements: Vec<&str> = script.lines().filter(|line| line.starts_with("add element")).collect();
    assert_eq!(
        elements,
        [
            "add element ip t idle { 10.96.0.3 . tcp . 80 : goto refuse }",
            "add element ip t node-ports { tcp . 30080 : goto ex-default/a/tcp/80 }",
            "add element ip t services { 10.96.0.1 . tcp . 80 : goto in-default/a/tcp/80, \
             192.0.2.7 . tcp . 80 : goto ex-default/a/tcp/80, 10.96.0.2 . tcp . 80 : goto in-default/bb/tcp/80 }",
        ]
    );
}

#[test]
fn others_than_the_ranges_of_a_load_balancer_are_dropped() {
    let ranges = |ranges: &[&str]| ranges.iter().map(|range| SourceRange::parse(range).unwrap()).collect();
    let guarded = |endpoints: &[&str], sources: &[&str]| Frontend {
        guarded_ips: vec!["192.0.2.7".parse().unwrap()],
        sources: ranges(sources),
        node_port: None,
        ..frontend(endpoints)
    };
    let lines = |frontend: Frontend| {
        let script = rendered(vec![frontend], &Contents::default()).0;
        script.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let served = lines(guarded(&["10.88.0.2:80"], &["10.1.0.0/16", "10.0.0.0/8", "198.51.100.7/32", "fd00::/8"]));
    for line in [
        "add rule ip t guard-default/web/tcp/80 ip saddr { 10.0.0.0/8, 198.51.100.7/32 } goto ex-default/web/tcp/80",
        "add rule ip t guard-default/web/tcp/80 drop",
        "add element ip t services { 10.96.0.9 . tcp . 80 : goto in-default/web/tcp/80, 192.0.2.7 . tcp . 80 : goto guard-default/web/tcp/80 }",
    ] {
        assert!(served.iter().any(|found| found == line), "{line}: {served:#?}");
    }
    // Who may not come in does not learn either that nobody is there.
    let idle = lines(guarded(&[], &["10.0.0.0/8"]));
    for line in [
        "add rule ip t idle-guard-default/web/tcp/80 ip saddr { 10.0.0.0/8 } goto refuse",
        "add rule ip t idle-guard-default/web/tcp/80 drop",
        "add element ip t idle { 10.96.0.9 . tcp . 80 : goto refuse, 192.0.2.7 . tcp . 80 : goto idle-guard-default/web/tcp/80 }",
    ] {
        assert!(idle.iter().any(|found| found == line), "{line}: {idle:#?}");
    }
    // Of ranges of the other family nobody comes, and all of them are everybody.
    let nobody = lines(guarded(&["10.88.0.2:80"], &["fd00::/8"]));
    assert!(!nobody.iter().any(|line| line.contains("saddr {")), "{nobody:#?}");
    assert!(nobody.contains(&"add rule ip t guard-default/web/tcp/80 drop".to_owned()));
    let everybody = lines(guarded(&["10.88.0.2:80"], &["10.0.0.0/8", "0.0.0.0/0"]));
    assert!(everybody.contains(&"add rule ip t guard-default/web/tcp/80 goto ex-default/web/tcp/80".to_owned()));
}

#[test]
fn chains_and_sets_go_with_what_they_were_for() {
    let sticky = Frontend { affinity_seconds: Some(60), ..frontend(&["10.88.0.2:80", "10.88.0.3:80"]) };
    let (_, both) = rendered(vec![sticky.clone()], &Contents::default());
    assert_eq!(both.sets.len(), 2);
    let one = Frontend { affinity_seconds: Some(60), ..frontend(&["10.88.0.2:80"]) };
    let (script, after) = rendered(vec![one], &both);
    let gone: Vec<&str> = script.lines().filter(|line| line.starts_with("delete")).collect();
    let gone_endpoint = "default/web/tcp/80-10.88.0.3/80";
    assert_eq!(
        gone,
        [format!("delete chain ip t ep-{gone_endpoint}"), format!("delete set ip t cl-{gone_endpoint}/60")]
    );
    let (script, none) = rendered(Vec::new(), &after);
    assert_eq!((script.as_str(), none), ("add table ip t\ndelete table ip t\n", Contents::default()));
    assert_eq!(rendered(Vec::new(), &Contents::default()).0, "");
}
