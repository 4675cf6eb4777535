//! From the flags of `wharf run` to a Pod object.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::flags::{self, Published};
use super::{Arguments, Network, Restart};

/// Label of every pod that `wharf run` made.
pub(crate) const RUN_LABEL: &str = "wharf/run";
/// The one container of such a pod.
const CONTAINER: &str = "main";
/// docker's; the API's own default is 30.
const STOP_GRACE_SECONDS: u64 = 10;
/// Letters of an image's name that a generated name begins with.
const NAME_PREFIX_LETTERS: usize = 40;

/// Whose rights the process has, as looked up in the image.
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
}

/// What the flags alone say: everything that can be wrong with them is found here.
pub(super) struct Request {
    pub(super) published: Vec<Published>,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    env: Vec<Value>,
    limits: BTreeMap<&'static str, String>,
}

impl Request {
    pub(super) fn parse(arguments: &Arguments) -> anyhow::Result<Self> {
        refuse_contradictions(arguments)?;
        let current = std::env::current_dir().context("find the current directory")?;
        let (volumes, mounts) = volumes(&arguments.volume, &current)?;
        let mut limits = BTreeMap::new();
        if let Some(text) = &arguments.memory {
            limits.insert("memory", flags::memory(text)?.to_string());
        }
        if let Some(text) = &arguments.cpus {
            limits.insert("cpu", format!("{}m", flags::cpus(text)?));
        }
        let mut env: Vec<Value> = Vec::new();
        for text in &arguments.env {
            let here = |name: &str| std::env::var(name).ok();
            if let Some((name, value)) = flags::variable(text, here)? {
                env.retain(|variable| variable["name"] != name);
                env.push(json!({"name": name, "value": literal(&value)}));
            }
        }
        let published: Vec<Published> =
            arguments.publish.iter().map(|text| flags::published(text)).collect::<Result<_, _>>()?;
        Ok(Self { published, volumes, mounts, env, limits })
    }

    /// The object; every published port has its host's by now.
    pub(super) fn pod(&self, arguments: &Arguments, name: &str, identity: Option<&Identity>) -> Value {
        let mut spec = json!({
            "restartPolicy": arguments.restart.policy(),
            "terminationGracePeriodSeconds": STOP_GRACE_SECONDS,
            "containers": [self.container(arguments, identity)],
        });
        if arguments.network == Network::Host {
            spec["hostNetwork"] = true.into();
        }
        if let Some(hostname) = &arguments.hostname {
            spec["hostname"] = hostname.as_str().into();
        }
        if !self.volumes.is_empty() {
            spec["volumes"] = self.volumes.clone().into();
        }
        if let Some(identity) = identity.filter(|identity| !identity.additional_gids.is_empty()) {
            spec["securityContext"] = json!({"supplementalGroups": identity.additional_gids});
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {RUN_LABEL: "true"}},
            "spec": spec,
        })
    }

    fn container(&self, arguments: &Arguments, identity: Option<&Identity>) -> Value {
        let mut container = json!({
            "name": CONTAINER, "image": arguments.image(), "imagePullPolicy": "IfNotPresent",
            "stdin": arguments.interactive,
            // With nobody attached the input stays open for whoever attaches later.
            "stdinOnce": arguments.interactive && !arguments.detach,
            "tty": arguments.tty,
        });
        let words = |words: &[String]| -> Vec<String> { words.iter().map(|word| literal(word)).collect() };
        match arguments.entrypoint.as_deref() {
            None if arguments.command().is_empty() => {}
            None => container["args"] = words(arguments.command()).into(),
            // An empty one takes the image's away.
            Some("") => container["command"] = words(arguments.command()).into(),
            Some(program) => {
                container["command"] = vec![literal(program)].into();
                container["args"] = words(arguments.command()).into();
            }
        }
        if let Some(directory) = &arguments.workdir {
            container["workingDir"] = directory.as_str().into();
        }
        if !self.env.is_empty() {
            container["env"] = self.env.clone().into();
        }
        if !self.mounts.is_empty() {
            container["volumeMounts"] = self.mounts.clone().into();
        }
        if !self.limits.is_empty() {
            container["resources"] = json!({"limits": self.limits});
        }
        if !self.published.is_empty() {
            container["ports"] = self.published.iter().map(port).collect::<Vec<_>>().into();
        }
        let security = security(arguments, identity);
        if security.as_object().is_some_and(|fields| !fields.is_empty()) {
            container["securityContext"] = security;
        }
        container
    }
}

fn refuse_contradictions(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        !(arguments.detach && arguments.rm),
        "--rm and --detach do not go together: nobody would be there to remove the pod"
    );
    if arguments.restart != Restart::No {
        ensure!(!arguments.rm, "--rm and --restart do not go together");
        ensure!(arguments.detach, "--restart needs --detach: a container that comes back has no end to wait for");
    }
    if arguments.network == Network::Host {
        ensure!(
            arguments.publish.is_empty(),
            "--publish and --network host do not go together: the container has the node's ports"
        );
        ensure!(
            arguments.hostname.is_none(),
            "--hostname and --network host do not go together: the container has the node's name"
        );
    }
    if arguments.entrypoint.as_deref() == Some("") && arguments.command().is_empty() {
        bail!("--entrypoint \"\" needs a command");
    }
    Ok(())
}

/// Volumes of the pod and where the container has them.
fn volumes(texts: &[String], current: &Path) -> anyhow::Result<(Vec<Value>, Vec<Value>)> {
    let (mut volumes, mut mounts): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        let mounted = flags::mounted(text, current)?;
        ensure!(
            mounts.iter().all(|mount| mount["mountPath"] != mounted.target),
            "--volume {text:?}: something is mounted at {} already",
            mounted.target
        );
        let name = format!("volume-{index}");
        volumes.push(match &mounted.source {
            None => json!({"name": name, "emptyDir": {}}),
            Some(path) if Path::new(path).exists() => json!({"name": name, "hostPath": {"path": path}}),
            Some(path) => json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}),
        });
        mounts.push(json!({"name": name, "mountPath": mounted.target, "readOnly": mounted.read_only}));
    }
    Ok((volumes, mounts))
}

fn port(published: &Published) -> Value {
    let mut port = json!({
        "containerPort": published.container, "hostPort": published.host, "protocol": published.protocol,
    });
    if let Some(address) = published.address {
        port["hostIP"] = address.to_string().into();
    }
    port
}

fn security(arguments: &Arguments, identity: Option<&Identity>) -> Value {
    let mut security = json!({});
    if arguments.privileged {
        security["privileged"] = true.into();
    }
    if arguments.read_only {
        security["readOnlyRootFilesystem"] = true.into();
    }
    if let Some(identity) = identity {
        security["runAsUser"] = identity.uid.into();
        security["runAsGroup"] = identity.gid.into();
    }
    for (field, names) in [("add", &arguments.cap_add), ("drop", &arguments.cap_drop)] {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| capability(name)).collect();
            security["capabilities"][field] = names.into();
        }
    }
    security
}

/// Kubernetes names capabilities without their prefix.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
}

/// A text that Kubernetes' `$(NAME)` expansion leaves as it is.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// A name for a pod of `image`: what the image is called, and something of its own.
pub(super) fn generated_name(image: &str, random: &str) -> String {
    let repository = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let base = repository.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let plain: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(NAME_PREFIX_LETTERS).collect();
    match plain.trim_matches('-') {
        "" => format!("run-{random}"),
        base => format!("{base}-{random}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use wharf_supervisor::api::kinds::pod::{spec_causes, spec_defaults};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &str) -> Arguments {
        Line::try_parse_from(["run"].into_iter().chain(line.split(' '))).unwrap().arguments
    }

    fn pod(line: &str) -> Value {
        let arguments = arguments(line);
        let identity = Identity { uid: 7, gid: 8, additional_gids: vec![9] };
        let identity = arguments.user.is_some().then_some(&identity);
        let pod = Request::parse(&arguments).unwrap().pod(&arguments, "p", identity);
        let mut spec = pod["spec"].clone();
        spec_defaults(&mut spec);
        let causes = spec_causes(&spec, "spec");
        assert!(causes.is_empty(), "{causes:?}");
        pod
    }

    #[test]
    fn a_plain_run_asks_for_nothing_else() {
        let pod = pod("busybox:1");
        assert_eq!(pod["metadata"], json!({"name": "p", "labels": {"wharf/run": "true"}}));
        assert_eq!(
            pod["spec"],
            json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 10, "containers": [{
                "name": "main", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "stdin": false, "stdinOnce": false, "tty": false,
            }]})
        );
    }

    #[test]
    fn every_flag_has_its_field() {
        let pod = pod("-it -e A=1 -e A=2 -v /etc:/e:ro -v /d -p 127.0.0.1:80:8080/udp -m 64m --cpus 0.5 -u web -w /w \
                       --privileged --read-only --hostname h --cap-add net_admin --cap-drop CAP_CHOWN i sh -c echo");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            (&container["stdin"], &container["stdinOnce"], &container["tty"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert_eq!(container["args"], json!(["sh", "-c", "echo"]));
        assert_eq!(container["env"], json!([{"name": "A", "value": "2"}]));
        assert_eq!(container["resources"], json!({"limits": {"cpu": "500m", "memory": "67108864"}}));
        assert_eq!(container["workingDir"], "/w");
        let ports = json!([{"containerPort": 8080, "hostPort": 80, "hostIP": "127.0.0.1", "protocol": "UDP"}]);
        assert_eq!(container["ports"], ports);
        let mounts = json!([{"name": "volume-0", "mountPath": "/e", "readOnly": true}, {"name": "volume-1", "mountPath": "/d", "readOnly": false}]);
        assert_eq!(container["volumeMounts"], mounts);
        let volumes = json!([{"name": "volume-0", "hostPath": {"path": "/etc"}}, {"name": "volume-1", "emptyDir": {}}]);
        assert_eq!(pod["spec"]["volumes"], volumes);
        let security = json!({"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 7, "runAsGroup": 8,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}});
        assert_eq!(container["securityContext"], security);
        assert_eq!(pod["spec"]["securityContext"], json!({"supplementalGroups": [9]}));
        assert_eq!(pod["spec"]["hostname"], "h");
    }

    #[test]
    fn an_entrypoint_takes_the_images_place() {
        let container = |line| pod(line)["spec"]["containers"][0].clone();
        let with = container("--entrypoint /bin/ls i -l $(X)");
        assert_eq!((&with["command"], &with["args"]), (&json!(["/bin/ls"]), &json!(["-l", "$$(X)"])));
        let none = container("--entrypoint= i ls -l");
        assert_eq!((&none["command"], none.get("args")), (&json!(["ls", "-l"]), None));
    }

    #[test]
    fn detached_pods_keep_their_input_and_may_restart() {
        let pod = pod("-d -i --restart always --network host i");
        assert_eq!(pod["spec"]["containers"][0]["stdinOnce"], false);
        assert_eq!((&pod["spec"]["restartPolicy"], &pod["spec"]["hostNetwork"]), (&json!("Always"), &json!(true)));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "-d --rm i",
            "--restart always i",
            "--network host -p 1:1 i",
            "--network host --hostname h i",
            "--entrypoint= i",
            "-v /a -v /b:/a i",
        ] {
            assert!(Request::parse(&arguments(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn generated_names_tell_the_image() {
        for (image, expected) in [
            ("docker.io/library/busybox:1", "busybox-x"),
            ("127.0.0.1:5000/My_App@sha256:00", "my-app-x"),
            ("_", "run-x"),
        ] {
            assert_eq!(generated_name(image, "x"), expected);
        }
    }
}
