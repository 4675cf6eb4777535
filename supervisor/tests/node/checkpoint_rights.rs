//! What the processes of a checkpoint may do, against what the container may that is made from it.

use tonic::Code;
use wharf_specs::cri;

use crate::checkpoints::{archive, node, of_image, with};
use crate::testnode::{Client, pod};

/// As criu writes it of a process with a container's usual capabilities and a filter of its system calls.
const CORE: &[u8] = include_bytes!("../../../fuzz/seeds/criu_core/sleep");

const CORE_NAME: &str = "checkpoint/core-1.img";

#[tokio::test]
async fn a_checkpoint_that_gives_its_processes_more_than_the_request_does_is_refused() {
    let Some(mut node) = node("ckptrights").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let location = node.path("c.tar");
    let usual = of_image("copy", location.to_str().unwrap());
    let mut less = usual.clone();
    let security = less.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.capabilities = Some(cri::Capability { drop_capabilities: vec!["NET_RAW".into()], ..Default::default() });

    let unfiltered = CORE.windows(2).rposition(|field| field == [11 << 3, 2]).unwrap();
    let unfiltered = [&CORE[..=unfiltered], &[0], &CORE[unfiltered + 2..]].concat();
    let raw = "has CAP_NET_RAW in its permitted set, which the container does not have";
    for (config, name, core, words) in [
        (&less, CORE_NAME, CORE, raw),
        (&usual, CORE_NAME, &unfiltered, "has no seccomp filter, and the container has one"),
        (&usual, CORE_NAME, &CORE[4..], "does not begin as an image of a thread"),
        (&usual, CORE_NAME, &CORE[..CORE.len() - 1], "says that its message has"),
        (&usual, "checkpoint/creds-1.img", CORE, "is of a criu older than 2.0"),
    ] {
        std::fs::write(&location, archive(&with(name, core))).unwrap();
        let error = client.create(&id, config.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(&format!("{name}: ")) && error.message().contains(words), "{error}");
        assert_eq!(std::fs::read_dir(node.path("data/containers")).unwrap().count(), 0, "nothing is left");
    }
    std::fs::write(&location, archive(&with(CORE_NAME, CORE))).unwrap();
    client.create(&id, usual).await.unwrap();
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
