//! The images that critest asks for by name, made of Debian's busybox. What runs in them says and does what
//! the suite looks for in the originals: a web server whose first process says `master process`, one that logs `httpd`,
//! and a program that belongs to root and takes its owner's rights.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::testnode::{append, built};

const ACCOUNTS: [(&str, &str); 2] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\n\
         nobody:x:65534:65534::/home:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
];

/// Named as the server it stands for: the suite looks for its process by that name, and for its pid in a file.
const NGINX: &str = "#!/bin/sh\ntrap 'exit 0' TERM QUIT\necho $$ >/var/run/nginx.pid\nhttpd -f -p $2 -h /www &\nwait\n";

const HTTPD: &str = "#!/bin/sh\necho httpd starts\nexec /bin/httpd -f -p 80 -h /www\n";

/// For these Debian's busybox has no applets.
const IPCS: &str = "#!/bin/sh\nexec cat /proc/sysvipc/shm\n";
const PGREP: &str = "#!/bin/sh\nfor process in /proc/[0-9]*; do\n  read -r name 2>/dev/null <$process/comm\n  \
                     [ \"$name\" != \"$1\" ] || echo ${process#/proc/}\ndone\n";

/// Prints whom it acts as.
const WHO: &str = include_str!("who.c");

struct Image {
    /// As the registry is to have it.
    name: &'static str,
    user: &'static str,
    command: &'static [&'static str],
}

const fn image(name: &'static str, user: &'static str, command: &'static [&'static str]) -> Image {
    Image { name, user, command }
}

const IMAGES: [Image; 18] = [
    image("e2e-test-images/busybox:1.29-2", "", &["sh"]),
    image("e2e-test-images/nginx:1.14-2", "", &["/usr/sbin/nginx", "master process", "80"]),
    image("e2e-test-images/httpd:2.4.39-4", "", &["/usr/sbin/httpd-foreground"]),
    image("e2e-test-images/nonewprivs:1.3", "", &["/who"]),
    image("pause:3.9", "", &["sleep", "1000000"]),
    image("k8s-staging-cri-tools/test-image-user-uid:latest", "1002", &["sh"]),
    image("k8s-staging-cri-tools/test-image-user-username:latest", "www-data", &["sh"]),
    image("k8s-staging-cri-tools/test-image-user-uid-group:latest", "1003:1004", &["sh"]),
    image("k8s-staging-cri-tools/test-image-user-username-group:latest", "www-data:1004", &["sh"]),
    image("k8s-staging-cri-tools/test-image-predefined-group:latest", "1000", &["sh"]),
    image("k8s-staging-cri-tools/test-image-latest:latest", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-tag:test", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-tag:all", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-digest:latest", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-1:latest", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-2:latest", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-3:latest", "", &["sh"]),
    image("k8s-staging-cri-tools/test-image-tags:1", "", &["sh"]),
];

/// Names for an image that has one already.
const ALIASES: [(&str, &str); 2] = [
    ("k8s-staging-cri-tools/test-image-tags:1", "k8s-staging-cri-tools/test-image-tags:2"),
    ("k8s-staging-cri-tools/test-image-tags:1", "k8s-staging-cri-tools/test-image-tags:3"),
];

const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Each image's name in the docker-archive at `path`, and the name that the registry is to know it by.
pub fn write(path: &Path) -> Vec<(String, String)> {
    let layer = layer(path.parent().unwrap());
    let diff_id = wharf_images::Digest::of(&layer).to_string();
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    append(&mut archive, "layer.tar", &layer, 0o644);
    let host_network = format!("k8s-staging-cri-tools/hostnet-nginx-{ARCHITECTURE}:latest");
    let hostnet: (&str, &str, &[&str]) = (&host_network, "", &["/usr/sbin/nginx", "master process", "12003"]);
    let all = IMAGES.iter().map(|image| (image.name, image.user, image.command)).chain([hostnet]);
    let mut manifest: Vec<Value> = Vec::new();
    let mut names = Vec::new();
    for (index, (name, user, command)) in all.enumerate() {
        let config = json!({
            "architecture": ARCHITECTURE, "os": "linux",
            // The name is what keeps two images from being one.
            "config": {"User": user, "Cmd": command, "Labels": {"name": name}, "Env": ["PATH=/usr/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        append(&mut archive, &format!("{index}.json"), config.to_string().as_bytes(), 0o644);
        let tag = format!("critest.example/{name}");
        manifest.push(json!({"Config": format!("{index}.json"), "RepoTags": [tag], "Layers": ["layer.tar"]}));
        names.push((tag, name.to_owned()));
    }
    append(&mut archive, "manifest.json", Value::from(manifest).to_string().as_bytes(), 0o644);
    archive.into_inner().unwrap();
    names.extend(ALIASES.map(|(name, alias)| (format!("critest.example/{name}"), alias.to_owned())));
    names
}

fn layer(scratch: &Path) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for name in ["bin", "etc", "dev", "proc", "sys", "root", "home", "usr/sbin", "var/run", "var/www", "www"] {
        directory(&mut layer, name, 0o755);
    }
    directory(&mut layer, "tmp", 0o1777);
    let busybox = built("busybox").unwrap();
    append(&mut layer, "bin/busybox", &std::fs::read(&busybox).unwrap(), 0o755);
    for library in libraries(&busybox) {
        append(&mut layer, library.trim_start_matches('/'), &std::fs::read(&library).unwrap(), 0o755);
    }
    let applets = Command::new(&busybox).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        // A path of its own each: one that is masked leaves the others.
        header.set_entry_type(tar::EntryType::Link);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "bin/busybox").unwrap();
    }
    for (name, text) in ACCOUNTS {
        append(&mut layer, name, text.as_bytes(), 0o644);
    }
    append(&mut layer, "www/index.html", b"it works\n", 0o644);
    append(&mut layer, "usr/sbin/nginx", NGINX.as_bytes(), 0o755);
    append(&mut layer, "usr/sbin/httpd-foreground", HTTPD.as_bytes(), 0o755);
    append(&mut layer, "bin/ipcs", IPCS.as_bytes(), 0o755);
    append(&mut layer, "bin/pgrep", PGREP.as_bytes(), 0o755);
    append(&mut layer, "who", &compile(scratch), 0o4755);
    layer.into_inner().unwrap()
}

/// What a program is linked to at run time, its loader too, as ldd(1) lists it.
fn libraries(program: &Path) -> Vec<String> {
    let said = Command::new("ldd").arg(program).output().unwrap().stdout;
    let words = String::from_utf8(said).unwrap();
    words.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

fn directory(layer: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    layer.append_data(&mut header, format!("{name}/"), std::io::empty()).unwrap();
}

/// From the folder of test tools, where a machine without a compiler has it.
fn compile(scratch: &Path) -> Vec<u8> {
    if let Some(program) = built("who") {
        return std::fs::read(program).unwrap();
    }
    let (source, program) = (scratch.join("who.c"), scratch.join("who"));
    std::fs::write(&source, WHO).unwrap();
    let made = Command::new("gcc").args(["-static", "-s", "-o"]).args([&program, &source]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(program).unwrap()
}
