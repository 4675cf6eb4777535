"""What the official Python client does with a node: client.py SERVER IMAGE. An assertion that fails ends it."""

import sys

from kubernetes import client, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

server, image = sys.argv[1:]
api = client.ApiClient(client.Configuration(host=server))
core, apps, batch = client.CoreV1Api(api), client.AppsV1Api(api), client.BatchV1Api(api)
labels = {"app": "web"}


def refused(call, *arguments, **words):
    try:
        call(*arguments, **words)
    except ApiException as error:
        return error.status
    raise AssertionError(f"{call.__name__} was not refused")


def wait_for(call, is_done, **words):
    for event in watch.Watch().stream(call, "default", timeout_seconds=30, **words):
        if is_done(event["type"], event["object"]):
            return event["object"]
    raise AssertionError(f"{call.__name__}: not there after 30 s")


def is_ready(_, pod):
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])


# Typed objects, made, watched and changed.
assert [n.metadata.name for n in core.list_namespace().items if n.metadata.name == "default"]
container = client.V1Container(
    name="main", image=image, command=["sh", "-c", "echo up; trap 'exit 0' TERM; sleep 1000 & wait"]
)
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
)
deployment = client.V1Deployment(
    metadata=client.V1ObjectMeta(name="web"),
    spec=client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template),
)
made = apps.create_namespaced_deployment("default", deployment)
assert made.metadata.uid and made.spec.strategy.type == "RollingUpdate", made
assert refused(apps.create_namespaced_deployment, "default", deployment) == 409
pod = wait_for(core.list_namespaced_pod, is_ready, label_selector="app=web")
name = pod.metadata.name
assert pod.status.pod_ip and pod.status.start_time, pod.status

apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 2}})
wait_for(apps.list_namespaced_deployment, lambda _, d: (d.status.ready_replicas or 0) == 2)
assert core.list_namespaced_pod("default", label_selector="app=web", limit=1).metadata._continue
stale = apps.read_namespaced_deployment("web", "default")
apps.patch_namespaced_deployment("web", "default", {"metadata": {"annotations": {"note": "x"}}})
assert refused(apps.replace_namespaced_deployment, "web", "default", stale) == 409

# Streams.
assert core.read_namespaced_pod_log(name, "default") == "up\n"
said = stream(
    core.connect_get_namespaced_pod_exec,
    name,
    "default",
    command=["sh", "-c", "echo out; echo err >&2"],
    stdout=True,
    stderr=True,
)
assert sorted(said.split()) == ["err", "out"], said

# Refusals are exceptions with their status.
assert refused(core.read_namespaced_pod, "nobody", "default") == 404
deployment.metadata.name = "No Name"
assert refused(apps.create_namespaced_deployment, "default", deployment) == 422

# A job, and deletions.
job = client.V1Job(
    metadata=client.V1ObjectMeta(name="once"),
    spec=client.V1JobSpec(
        template=client.V1PodTemplateSpec(
            spec=client.V1PodSpec(
                restart_policy="Never", containers=[client.V1Container(name="main", image=image, command=["true"])]
            )
        )
    ),
)
batch.create_namespaced_job("default", job)
wait_for(batch.list_namespaced_job, lambda _, j: j.status.succeeded == 1)
batch.delete_namespaced_job("once", "default", propagation_policy="Background")
apps.delete_namespaced_deployment("web", "default", propagation_policy="Foreground", grace_period_seconds=0)
listed = apps.list_namespaced_deployment("default")
if listed.items:
    version = listed.metadata.resource_version
    wait_for(apps.list_namespaced_deployment, lambda kind, _: kind == "DELETED", resource_version=version)
print("done")
