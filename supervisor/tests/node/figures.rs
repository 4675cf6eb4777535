//! Stats and metrics of pods and containers, as a kubelet asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio_stream::StreamExt;
use wharf_specs::cri;

use crate::testnode::{self, Client, container, pod};

const MEMORY_LIMIT: i64 = 64 << 20;

/// A pod with a container that works, with a limit, and a file of its own.
async fn busy(node: &testnode::TestNode, client: &mut Client) -> (String, String) {
    let id = client.run_pod(pod(node, "web")).await;
    let script = "dd if=/dev/zero of=/tmp/file bs=4096 count=256 2>/dev/null; while true; do :; done";
    let mut config = container("main", &["sh", "-c", script]);
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: MEMORY_LIMIT,
        memory_swap_limit_in_bytes: MEMORY_LIMIT,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    });
    let main = client.run(&id, config).await;
    // The file is there when the loop runs.
    let wait = "until [ $(stat -c %s /tmp/file) = 1048576 ]; do sleep 0.05; done; ping -c 2 -i 0.1 10.77.0.1";
    let output = client.exec(&main, &["sh", "-c", wait], 20).await.unwrap();
    assert_eq!(output.exit_code, 0, "{output:?}");
    (id, main)
}

async fn pod_stats(client: &mut Client, pod: &str) -> cri::PodSandboxStats {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.into() };
    client.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap()
}

fn figure(value: Option<cri::UInt64Value>) -> u64 {
    value.expect("a figure").value
}

#[tokio::test]
async fn stats_show_what_a_pod_and_its_containers_use() {
    let Some(mut node) = testnode::start("stats").await else { return };
    let mut client = Client::of(&node).await;
    let (id, main) = busy(&node, &mut client).await;

    let first = pod_stats(&mut client, &id).await.linux.unwrap();
    // A rate needs two samples; the loop keeps the processor busy up to its quota.
    let end = Instant::now() + Duration::from_secs(30);
    let stats = loop {
        let stats = pod_stats(&mut client, &id).await.linux.unwrap();
        if stats.containers[0].cpu.as_ref().unwrap().usage_nano_cores.is_some() {
            break stats;
        }
        assert!(Instant::now() < end, "no rate: {stats:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let cpu = stats.containers[0].cpu.unwrap();
    let rate = figure(cpu.usage_nano_cores);
    assert!((1..=1_000_000_000).contains(&rate), "half a processor is its limit: {rate}");
    let earlier = first.containers[0].cpu.unwrap();
    assert!(figure(cpu.usage_core_nano_seconds) > figure(earlier.usage_core_nano_seconds));
    assert!(cpu.timestamp > earlier.timestamp && earlier.timestamp > 0);

    let memory = stats.containers[0].memory.unwrap();
    let working = figure(memory.working_set_bytes);
    assert!(working > 0 && working <= figure(memory.usage_bytes) && figure(memory.page_faults) > 0);
    assert_eq!(figure(memory.available_bytes), MEMORY_LIMIT as u64 - working);
    assert_eq!(figure(stats.containers[0].swap.unwrap().swap_available_bytes), 0);
    let layer = stats.containers[0].writable_layer.clone().unwrap();
    assert!(figure(layer.used_bytes) >= 1 << 20 && figure(layer.inodes_used) >= 1, "{layer:?}");
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        let pressure = cpu.psi.and_then(|psi| psi.some).expect("pressure");
        assert!(pressure.total > 0, "its quota makes it wait");
        assert!(memory.psi.is_some() && stats.containers[0].io.is_some() && stats.io.is_some());
    }

    assert!(figure(stats.cpu.unwrap().usage_core_nano_seconds) >= figure(earlier.usage_core_nano_seconds));
    assert!(figure(stats.memory.unwrap().usage_bytes) >= working);
    assert_eq!(figure(stats.process.unwrap().process_count), 1);
    let eth0 = stats.network.unwrap().default_interface.unwrap();
    assert_eq!(eth0.name, "eth0");
    assert!(figure(eth0.rx_bytes) > 0 && figure(eth0.tx_bytes) > 0 && figure(eth0.tx_errors) == 0);

    // Of a container that ended only the layer is left, and lists have those that run.
    client.stop(&main, 0).await;
    let request = cri::ContainerStatsRequest { container_id: main.clone() };
    let ended = client.runtime.container_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some(), "{ended:?}");
    let list = cri::ListContainerStatsRequest { filter: None };
    assert!(client.runtime.list_container_stats(list).await.unwrap().into_inner().stats.is_empty());
    client.stop_pod(&id).await;
    let list = cri::ListPodSandboxStatsRequest { filter: None };
    assert!(client.runtime.list_pod_sandbox_stats(list).await.unwrap().into_inner().stats.is_empty());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn stats_are_listed_by_filter_and_streamed_alike() {
    let Some(node) = testnode::start("statslist").await else { return };
    let mut client = Client::of(&node).await;
    let mut host = pod(&node, "host");
    let options = host.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.network = cri::NamespaceMode::Node.into();
    let host = client.run_pod(host).await;
    let web = client.run_pod(pod(&node, "web")).await;
    let mut containers = Vec::new();
    for (pod, network) in [(&host, cri::NamespaceMode::Node), (&web, cri::NamespaceMode::Pod)] {
        let mut config = container("main", &["sleep", "1000"]);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().network = network.into();
        containers.push(client.run(pod, config).await);
    }

    let filter =
        cri::PodSandboxStatsFilter { id: String::new(), label_selector: [("app".into(), "web".into())].into() };
    let list = cri::ListPodSandboxStatsRequest { filter: Some(filter) };
    let found = client.runtime.list_pod_sandbox_stats(list).await.unwrap().into_inner().stats;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].attributes.as_ref().unwrap().id, web);
    assert_eq!(found[0].linux.as_ref().unwrap().containers[0].attributes.as_ref().unwrap().id, containers[1]);
    assert!(
        pod_stats(&mut client, &host).await.linux.unwrap().network.is_none(),
        "the node's network is not the pod's"
    );

    let request = cri::StreamPodSandboxStatsRequest { filter: None };
    let mut stream = client.runtime.stream_pod_sandbox_stats(request).await.unwrap().into_inner();
    let mut streamed = BTreeSet::new();
    while let Some(message) = stream.next().await {
        streamed.extend(message.unwrap().pod_sandbox_stats.into_iter().map(|stats| stats.attributes.unwrap().id));
    }
    assert_eq!(streamed, BTreeSet::from([host.clone(), web.clone()]));

    let filter = cri::ContainerStatsFilter { pod_sandbox_id: host.clone(), ..Default::default() };
    let request = cri::StreamContainerStatsRequest { filter: Some(filter) };
    let mut stream = client.runtime.stream_container_stats(request).await.unwrap().into_inner();
    let stats = stream.next().await.unwrap().unwrap().container_stats;
    assert_eq!(stats.iter().map(|stats| &stats.attributes.as_ref().unwrap().id).collect::<Vec<_>>(), [&containers[0]]);
    assert!(stream.next().await.is_none());

    let request = cri::StreamContainersRequest { filter: None };
    let mut stream = client.runtime.stream_containers(request).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().containers.len(), 2);
    let request = cri::StreamPodSandboxesRequest { filter: None };
    let mut stream = client.runtime.stream_pod_sandboxes(request).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().pod_sandboxes.len(), 2);
    let request = cri::StreamPodSandboxMetricsRequest {};
    let mut stream = client.runtime.stream_pod_sandbox_metrics(request).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().pod_sandbox_metrics.len(), 2);
    let mut images = node.images().await;
    let mut stream = images.stream_images(cri::StreamImagesRequest { filter: None }).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().images.len(), 1);

    for pod in [&host, &web] {
        client.remove_pod(pod).await;
    }
}

/// Not on every machine: without a disk of the container's own, huge pages, or pressure in the kernel.
fn may_lack(name: &str) -> bool {
    ["container_blkio_", "container_fs_reads_", "container_fs_writes_", "container_hugetlb_", "container_pressure_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        // v1 without accounting of the kernel's memory.
        || name == "container_memory_kernel_usage"
}

#[tokio::test]
async fn metrics_have_cadvisor_s_names_and_the_labels_that_are_described() {
    let Some(node) = testnode::start("metrics").await else { return };
    let mut client = Client::of(&node).await;
    let (id, main) = busy(&node, &mut client).await;

    let descriptors = client.runtime.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await.unwrap();
    let descriptors: BTreeMap<_, _> =
        descriptors.into_inner().descriptors.into_iter().map(|found| (found.name.clone(), found)).collect();
    assert!(descriptors.values().all(|descriptor| !descriptor.help.is_empty()));

    let metrics = client.runtime.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await.unwrap();
    let pods = metrics.into_inner().pod_metrics;
    assert_eq!((pods.len(), &pods[0].pod_sandbox_id, &pods[0].container_metrics[0].container_id), (1, &id, &main));
    let own = &pods[0].container_metrics[0].metrics;
    let all: Vec<&cri::Metric> = pods[0].metrics.iter().chain(own).collect();
    for metric in &all {
        let descriptor = descriptors.get(&metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
        assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{}", metric.name);
        assert!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
    }
    let found: BTreeSet<&String> = all.iter().map(|metric| &metric.name).collect();
    let missing: Vec<_> = descriptors.keys().filter(|name| !found.contains(name) && !may_lack(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let value = |name: &str| own.iter().find(|metric| metric.name == name).unwrap().value.unwrap().value;
    assert_eq!(value("container_spec_memory_limit_bytes"), MEMORY_LIMIT as u64);
    assert_eq!((value("container_spec_cpu_quota"), value("container_spec_cpu_period")), (50_000, 100_000));
    assert_eq!((value("container_processes"), value("container_threads")), (1, 1));
    assert!(value("container_file_descriptors") >= 3 && value("container_ulimits_soft") > 0);
    assert!(value("container_cpu_cfs_periods_total") > 0 && value("container_fs_usage_bytes") >= 1 << 20);
    let usage = own.iter().find(|metric| metric.name == "container_memory_usage_bytes").unwrap();
    assert_eq!(usage.label_values[1..], [&main, testnode::IMAGE, "main", "web", "default"]);
    assert!(usage.label_values[0].ends_with(&main), "{usage:?}");
    client.remove_pod(&id).await;
}
