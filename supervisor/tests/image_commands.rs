//! The image commands of `wharf` as a person uses them, without a daemon, against Debian's docker-registry.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A store in a folder of its own, and the command on it.
struct Here {
    folder: tempfile::TempDir,
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Here {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--root").arg(self.path("data")).args(arguments).stdin(Stdio::null());
        // Nobody's logins and settings.
        command.env("HOME", self.folder.path()).env_remove("XDG_RUNTIME_DIR").env_remove("REGISTRY_AUTH_FILE");
        command.env("DOCKER_CONFIG", self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// What a command prints that must succeed.
    fn output(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "wharf {arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// One line that says what is wrong.
    fn refused(&self, arguments: &[&str], says: &str) {
        let ran = self.run(arguments);
        let one_line = ran.stderr.starts_with("wharf: ") && ran.stderr.lines().count() == 1;
        assert!(ran.code == Some(1) && one_line && ran.stderr.contains(says), "wharf {arguments:?}: {:?}", ran.stderr);
    }

    fn entries(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn is_able(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("SKIP {test}: needs root to set owners");
    }
    let found = ["docker-registry", "skopeo", "busybox"]
        .into_iter()
        .find(|program| Command::new(program).arg("--help").output().is_err());
    if let Some(program) = found {
        println!("SKIP {test}: {program} is not installed");
    }
    is_root && found.is_none()
}

/// Debian's docker-registry on a loopback port of its own.
struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',', '\n']).next().unwrap().to_owned();
            }
        };
        // It must not block on its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address, _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// In front of a registry: the answer for a path that ends so comes only to its half until `released`; every other one at once.
struct Gate {
    address: String,
    /// Told when the half has been sent.
    halfway: mpsc::Receiver<()>,
    /// `METHOD path` of every request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Gate {
    fn start(upstream: &str, held: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, halfway) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (upstream, held, log) = (upstream.to_owned(), held.to_owned(), seen.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (upstream, held, log, tell) = (upstream.clone(), held.clone(), log.clone(), tell.clone());
                std::thread::spawn(move || pass(client.unwrap(), &upstream, &held, &log, &tell));
            }
        });
        Self { address, halfway, seen }
    }
}

/// One request of a connection, and its answer.
fn pass(
    mut client: TcpStream,
    upstream: &str,
    held: &str,
    log: &Mutex<Vec<String>>,
    tell: &mpsc::Sender<()>,
) -> Option<()> {
    let mut request = BufReader::new(client.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        request.read_line(&mut line).ok().filter(|length| *length > 2)?;
        lines.push(line);
        if request.buffer().starts_with(b"\r\n") {
            break;
        }
    }
    let path = lines[0].split(' ').take(2).collect::<Vec<_>>().join(" ");
    log.lock().unwrap().push(path.clone());
    let mut server = TcpStream::connect(upstream).ok()?;
    lines.insert(1, "connection: close\r\n".into());
    write!(server, "{}\r\n", lines.concat()).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    if path.ends_with(held) {
        client.write_all(&answer[..answer.len() / 2]).ok()?;
        let _ = tell.send(());
        // Until the client has gone.
        let _ = client.read(&mut [0]);
        return None;
    }
    client.write_all(&answer).ok()
}

/// An image of two layers, `repository:1` at the registry; gives the digests of config and layers.
fn image(here: &Here, registry: &Registry, repository: &str, bytes: usize) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/make-image.sh");
    let archive = here.path("base.tar");
    let made =
        Command::new("sh").arg(script).arg(&archive).args(["wharf.test/base:1", "echo", "hello"]).output().unwrap();
    assert!(made.status.success());
    // A second layer that does not compress.
    let folder = here.path("archive");
    fs::create_dir(&folder).unwrap();
    let untar = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder).status().unwrap();
    assert!(untar.success());
    let mut manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let config_file = folder.join(manifest[0]["Config"].as_str().unwrap());
    let mut config: Value = serde_json::from_slice(&fs::read(&config_file).unwrap()).unwrap();
    let mut noise = vec![0; bytes];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(here.path("noise"), noise).unwrap();
    let (second, noise) = (folder.join("second.tar"), here.folder.path());
    let tarred = Command::new("tar").arg("-cf").arg(second).arg("-C").arg(noise).arg("noise").status();
    assert!(tarred.unwrap().success());
    let digest = Command::new("sha256sum").arg(folder.join("second.tar")).output().unwrap().stdout;
    let diff_id = format!("sha256:{}", String::from_utf8(digest).unwrap().split(' ').next().unwrap());
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(diff_id.into());
    manifest[0]["Layers"].as_array_mut().unwrap().push("second.tar".into());
    manifest[0]["RepoTags"] = serde_json::json!(["wharf.test/two:1"]);
    fs::write(&config_file, config.to_string()).unwrap();
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let two = here.path("two.tar");
    assert!(Command::new("tar").arg("-cf").arg(&two).arg("-C").arg(&folder).arg(".").status().unwrap().success());
    let to = format!("docker://{}/{repository}:1", registry.address);
    let other = Here::new();
    other.output(&["cp-image", "--quiet", &format!("docker-archive:{}", two.display()), &to]);
    let raw = Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &to]).output().unwrap().stdout;
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let all = [&manifest["config"]].into_iter().chain(layers);
    all.map(|part| part["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pull_that_a_person_interrupts_goes_on_with_the_rest() {
    if !is_able("a_pull_that_a_person_interrupts_goes_on_with_the_rest") {
        return;
    }
    let (here, registry) = (Here::new(), Registry::start());
    let digests = image(&here, &registry, "team/app", 3_000_000);
    let (whole, held) = (&digests[1], &digests[2]);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let gate = Gate::start(&registry.address, held);
        let name = format!("{}/team/app:1", gate.address);
        let mut child = here.command(&["pull", &name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        gate.halfway.recv().unwrap();
        // The other layer is there, as the command says.
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.starts_with(&whole[7..19]), "{line}");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
        assert_eq!(
            rest,
            format!("wharf: pull {name}: interrupted; layers that were complete are kept for the next time\n")
        );
        for folder in ["data/tmp", "data/snapshots", "data/fetching", "data/containers"] {
            assert!(here.entries(folder).is_empty(), "{folder}: {:?}", here.entries(folder));
        }
        assert_eq!(here.entries("data/images/blobs/sha256"), [&whole[7..]]);
        assert_eq!(here.output(&["images", "--quiet"]), "");
    }
    // The next pull transfers the rest, and only that; the one after it asks once.
    let open = Gate::start(&registry.address, "no such path");
    let name = format!("{}/team/app:1", open.address);
    here.output(&["pull", "--quiet", &name]);
    let blobs: Vec<String> =
        open.seen.lock().unwrap().drain(..).filter(|request| request.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    assert!(blobs.iter().all(|request| !request.ends_with(whole)));
    here.output(&["pull", "--quiet", &name]);
    assert_eq!(*open.seen.lock().unwrap(), ["HEAD /v2/team/app/manifests/1"]);
    assert!(here.output(&["system", "check"]).contains("all sound"));
}

#[test]
fn a_full_disk_is_an_error_that_clears_when_there_is_room() {
    if !is_able("a_full_disk_is_an_error_that_clears_when_there_is_room") {
        return;
    }
    let (here, registry) = (Here::new(), Registry::start());
    image(&here, &registry, "large", 12_000_000);
    image(&Here::new(), &registry, "small", 1000);
    let disk = here.path("disk");
    fs::File::create(&disk).unwrap().set_len(40 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").arg("-q").arg(&disk).status().unwrap().success());
    // The mount goes with its namespace.
    let script = r#"
        mkdir -p "$DATA"; mount -o loop "$DISK" "$DATA"
        "$WHARF" --root "$DATA" pull -q "$REGISTRY/small:1"
        before=$(cd "$DATA" && find . | sort)
        head -c 20000000 /dev/zero > "$DATA/filler"
        ! "$WHARF" --root "$DATA" pull -q "$REGISTRY/large:1" 2> "$LOG" || exit 10
        rm "$DATA/filler"
        [ "$before" = "$(cd "$DATA" && find . | sort)" ] || { cd "$DATA"; find .; exit 11; }
        "$WHARF" --root "$DATA" system check || exit 12
        "$WHARF" --root "$DATA" images -q | wc -l
        "$WHARF" --root "$DATA" pull -q "$REGISTRY/large:1" || exit 13
        "$WHARF" --root "$DATA" system check || exit 14
        umount "$DATA"
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-ec", script])
        .env("DATA", here.path("mounted"))
        .env("DISK", &disk)
        .env("LOG", here.path("log"))
        .env("WHARF", env!("CARGO_BIN_EXE_wharf"))
        .env("REGISTRY", &registry.address)
        .output()
        .unwrap();
    let ran = Ran::from(output);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let log = fs::read_to_string(here.path("log")).unwrap();
    let line = log.starts_with(&format!("wharf: pull {}/large:1: layer sha256:", registry.address));
    assert!(line && log.contains("No space left on device") && log.lines().count() == 1, "{log}");
    assert_eq!(ran.stdout.matches("all sound").count(), 2, "{}", ran.stdout);
}

#[test]
fn images_are_pushed_told_and_compared() {
    if !is_able("images_are_pushed_told_and_compared") {
        return;
    }
    let (here, registry) = (Here::new(), Registry::start());
    image(&here, &registry, "app", 1000);
    let name = format!("{}/app:1", registry.address);
    here.output(&["pull", "--quiet", &name]);
    let id = here.output(&["inspect", "--format", "{{.Id}}", &name]);
    let copy = format!("{}/copy:2", registry.address);
    assert_eq!(here.output(&["push", "--quiet", &name, &copy]), format!("{copy}\n"));
    let pushed = here.run(&["push", &name, &format!("{}/other:2", registry.address)]);
    assert!(pushed.stderr.contains("mounted from another repository"), "{}", pushed.stderr);
    let other = Here::new();
    other.output(&["pull", "--quiet", &copy]);
    assert_eq!(other.output(&["inspect", "--format", "{{.Id}}", &copy]), id);

    let history = here.output(&["history", "--format", "{{.Size}}", &name]);
    assert_eq!(history.lines().count(), 2, "{history}");
    here.output(&["load", "--quiet", "--input", here.path("base.tar").to_str().unwrap()]);
    assert_eq!(here.output(&["diff", "wharf.test/base:1", &name]), "A /noise\n");
    let json: Value =
        serde_json::from_str(&here.output(&["diff", "--format", "json", &name, "wharf.test/base:1"])).unwrap();
    assert_eq!(json, serde_json::json!({"added": [], "changed": [], "deleted": ["/noise"]}));
    let list = here.output(&["images", "--format", "table {{.Repository}}\\t{{.Tag}}"]);
    assert!(list.starts_with("REPOSITORY") && list.lines().count() == 3, "{list}");

    here.output(&["pin", &name]);
    here.refused(&["rmi", &name], "is pinned");
    here.output(&["system", "prune", "--all", "--force"]);
    assert_eq!(here.output(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), format!("{name}\n"));
    for (arguments, says) in [
        (&["push", "nothing"][..], "not in the store"),
        (&["push", &id.trim()[7..20]], "is an id"),
        (&["push", &name, "A:"], "image reference `A:`"),
        (&["push", "--platform", "linux/s390x", &name], "is not for linux/s390x, it is for linux/amd64"),
        (&["push", &name, "127.0.0.1:1/a"], "cannot connect"),
        (&["history", "nothing"], "not in the store"),
        (&["history", "--format", "{{.Nope}}", &name], "no field `Nope`"),
        (&["inspect", "--format", "{{", &name], "--format"),
        (&["inspect", "--platform", "x", &name], "platform `x`"),
        (&["cp-image", "busybox", "store:x"], "expected docker://REFERENCE"),
        (&["cp-image", "store:nothing", "oci:/nonexistent/x"], "not in the store"),
        (
            &["cp-image", "--src-creds", "secret", &format!("docker://{name}"), "store:x"],
            "--src-creds: expected USER:PASSWORD",
        ),
        (&["pin", "nothing"], "not in the store"),
        (&["system", "prune"], "--force"),
        (&["diff", &name, "nothing"], "not in the store"),
        (&["images", "--format", "{{.Nope}}"], "no field `Nope`"),
    ] {
        here.refused(arguments, says);
    }
}
