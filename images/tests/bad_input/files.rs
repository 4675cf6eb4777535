//! Credential files, `registries.toml` and `hosts.toml`: nobody is asked before they are right.

use std::path::Path;

use wharf_images::{Keychain, PullOptions, Registries, Store, StoreOptions};

use crate::check;
use crate::fixture::fake::{FakeRegistry, Reply};
use crate::fixture::{chain, is_root};

/// Writes each text of the table to `name` and pulls with what `options` makes of the folder.
async fn refused(name: &str, options: fn(&Path) -> StoreOptions, table: &[(&[u8], &[&str])]) {
    let registry = FakeRegistry::start(|_| Reply::new(500, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name.replace("HOST", &registry.address));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (text, parts) in table {
        let case = String::from_utf8_lossy(text);
        let case = case.chars().take(100).collect::<String>();
        std::fs::write(&file, text.escape_host(&registry.address)).unwrap();
        let root = tempfile::tempdir().unwrap();
        let store = Store::open_with(root.path(), options(folder.path())).unwrap();
        let reference = registry.reference("team/app:v1");
        let error = store.pull(&reference, PullOptions::default()).await.expect_err(&case);
        let line = chain(&*error);
        check(&case, &line, &[&format!("pull {reference}: "), &file.display().to_string()]);
        check(&case, &line, parts);
        assert!(!line.contains("s3cret"), "{line}");
        assert!(registry.take_requests().is_empty(), "{case}");
        assert!(store.images().unwrap().is_empty() && store.usage().unwrap().inodes == 0, "{case}");
    }
}

trait EscapeHost {
    fn escape_host(&self, host: &str) -> Vec<u8>;
}

impl EscapeHost for &[u8] {
    /// `HOST` stands for the registry's address.
    fn escape_host(&self, host: &str) -> Vec<u8> {
        match std::str::from_utf8(self) {
            Ok(text) => text.replace("HOST", host).into_bytes(),
            Err(_) => self.to_vec(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_files_are_refused_with_the_key_and_without_the_secret() {
    let options = |folder: &Path| StoreOptions {
        keychain: Keychain::default().and_file(folder.join("auth.json")),
        ..StoreOptions::default()
    };
    let large = vec![b' '; (1 << 20) + 1];
    refused(
        "auth.json",
        options,
        &[
            (b"s3cret", &["line 1, column 1: is no valid JSON"]),
            (b"[]", &["the document: expected an object"]),
            (b"\"s3cret\"", &["the document: expected an object"]),
            (b"{\"auths\":{\n\"q.io\":{\"auth\":\"s3cret}}}", &["line 2, column 25: is no valid JSON"]),
            (b"{} {}", &["line 1, column 4: is no valid JSON"]),
            (b"{\"auths\":{\"\xff\":{}}}", &["is no valid JSON"]),
            (br#"{"auths":[]}"#, &["auths: expected an object"]),
            (br#"{"auths":{"q.io":"s3cret"}}"#, &[r#"auths."q.io": expected an object"#]),
            (br#"{"auths":{"q.io":{"auth":7}}}"#, &[r#"auths."q.io".auth: expected a string"#]),
            (br#"{"auths":{"q.io":{"auth":"s3cret"}}}"#, &[r#"auths."q.io".auth: expected `user:password` in base64"#]),
            (
                br#"{"auths":{"q.io":{"auth":"czNjcmV0"}}}"#,
                &[r#"auths."q.io".auth: expected `user:password` in base64"#],
            ),
            (br#"{"auths":{"q.io":{"identitytoken":["s3cret"]}}}"#, &["identitytoken: expected a string"]),
            (br#"{"auths":{"q.io":{"username":"a","password":{"s3cret":1}}}}"#, &["password: expected a string"]),
            (br#"{"credHelpers":"s3cret"}"#, &["credHelpers: expected an object"]),
            (br#"{"credHelpers":{"q.io":"../../bin/sh"}}"#, &[r#"credHelpers."q.io": expected the NAME of a program"#]),
            (br#"{"credsStore":["pass"]}"#, &["credsStore: expected the NAME of a program docker-credential-NAME"]),
            (&large, &["is longer than 1048576 bytes"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_toml_is_refused_with_line_and_key() {
    let options = |folder: &Path| StoreOptions {
        registries: Registries::default().with_file(folder.join("registries.toml")),
        ..StoreOptions::default()
    };
    let large = vec![b'#'; (1 << 20) + 1];
    refused(
        "registries.toml",
        options,
        &[
            (b"x", &["line 1: "]),
            (b"\xff = 1", &["is no text in UTF-8"]),
            (b"\nregistries = []\n", &["line 2: unknown field `registries`, expected `certs_d` or `registry`"]),
            (b"registry = []\n", &["line 1: invalid type: sequence, expected a map"]),
            (b"[registry.'HOST']\nmirror = ['a.io']\n", &["line 2: unknown field `mirror`, expected one of `mirrors`"]),
            (
                b"[registry.'HOST']\n\nmirrors = 'a.io'\n",
                &["line 3: invalid type: string \"a.io\", expected a sequence"],
            ),
            (b"[registry.'HOST']\nmirrors = [7]\n", &["line 2: invalid type: integer `7`, expected a string"]),
            (b"[registry.'HOST']\nmirrors = ['']\n", &["line 2: mirror ``: ", "expected a host name"]),
            (b"[registry.'HOST']\nmirrors = ['http://a.io']\n", &["line 2: mirror `http://a.io`: `http://`"]),
            (
                b"[registry.'HOST']\nmirrors = ['a.io/b c']\n",
                &["line 2: mirror `a.io/b c`: ", "component `b c`: expected"],
            ),
            (b"[registry.'HOST']\nmirrors = ['a.io:99999']\n", &["line 2: ", "port `99999`: expected 1-65535"]),
            (b"[registry.'HOST']\nca = 'ca.pem'\n", &["line 2: `ca.pem`: expected an absolute path"]),
            (b"[registry.'HOST']\nca = ['/ca.pem']\n", &["line 2: invalid type: sequence, expected path string"]),
            (b"[registry.'HOST']\nclient_cert = '/c.pem'\n", &["line 2: ", "client_cert and client_key go together"]),
            (b"[registry.'HOST']\nclient_key = '/c.key'\n", &["line 2: ", "client_cert and client_key go together"]),
            (b"[registry.'HOST']\ninsecure = 1\n", &["line 2: insecure = 1: expected \"http\", \"no-verification\""]),
            (b"[registry.'HOST']\ninsecure = 'HTTP'\n", &["line 2: insecure = \"HTTP\": expected \"http\""]),
            (b"[registry.'*']\n", &["line 1: registry `*`: ", "expected a host name"]),
            (b"[registry.'*.a.io:5000']\n", &["line 1: registry `*.a.io:5000`: expected nothing but a domain"]),
            (b"[registry.'a.io/B C']\n", &["line 1: registry `a.io/b c`: ", "component `b c`"]),
            (b"[registry.'registry-1.docker.io']\n", &["line 1: ", "Docker Hub is called docker.io"]),
            (
                b"[registry.'a.io']\n[registry.'A.io']\n",
                &["line 2: registry `a.io`: ", "has a section already, at line 1"],
            ),
            (b"certs_d = ['etc']\n", &["line 1: `etc`: expected an absolute path"]),
            (&large, &["is longer than 1048576 bytes"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_toml_is_refused_with_line_and_key() {
    let options = |folder: &Path| StoreOptions {
        registries: Registries::default().and_hosts_folder(folder.join("certs.d")),
        ..StoreOptions::default()
    };
    refused(
        "certs.d/HOST/hosts.toml",
        options,
        &[
            (b"[host", &["line 1: "]),
            (b"\nserver = 7\n", &["line 2: invalid type: integer `7`, expected a string"]),
            (b"server = 'unix:///run/x'\n", &["line 1: server: `unix:///run/x` is no URL of a registry"]),
            (b"server = 'https://'\n", &["line 1: server: `https://` is no URL of a registry"]),
            (b"server = 'https://a.io/?x'\n", &["is no URL of a registry"]),
            (b"servers = []\n", &["line 1: unknown field `servers`, expected one of `server`, `host`"]),
            (b"[host.'a b']\n", &["line 1: host.\"a b\": `a b` is no URL of a registry"]),
            (
                b"[host.'a.io']\nplain_http = true\n",
                &["line 2: unknown field `plain_http`, expected one of `capabilities`"],
            ),
            (
                b"[host.'a.io']\ncapabilities = 'pull'\n",
                &["line 2: invalid type: string \"pull\", expected a sequence"],
            ),
            (b"[host.'a.io']\ncapabilities = ['PULL']\n", &["line 2: ", "`PULL`: expected one of pull, resolve, push"]),
            (b"[host.'a.io']\nca = true\n", &["line 2: host.\"a.io\".ca: expected a file or a list of files"]),
            (b"[host.'a.io']\nclient = [[]]\n", &["line 2: host.\"a.io\".client: expected a file, or a list"]),
            (b"client = ['a', 'b']\n", &["line 1: server.client: expected one certificate"]),
            (b"[host.'a.io']\nskip_verify = 1\n", &["line 2: invalid type: integer `1`, expected a boolean"]),
            (b"[host.'a.io']\ndial_timeout = '5'\n", &["line 2: ", "`5`: expected a time as in \"5s\""]),
            (b"[host.'a.io']\ndial_timeout = '0s'\n", &["line 2: ", "`0s`: expected a time as in \"5s\""]),
            (b"[host.'a.io'.header]\nx = 7\n", &["line 2: host.\"a.io\".header.x: expected a text or a list"]),
            (b"[header]\n'x y' = 's3cret'\n", &["line 2: server.header.x y: is no name of a header"]),
            (b"[header]\nx = \"s3cret\\u0000\"\n", &["line 2: server.header.x: is no value of a header"]),
        ],
    )
    .await;
    // What a file names is looked at before anybody is asked, too.
    if is_root("hosts_toml_is_refused_with_line_and_key") {
        let certificate = |folder: &Path| StoreOptions {
            registries: Registries::default().and_hosts_folder(folder.to_owned()),
            ..StoreOptions::default()
        };
        refused(
            "_default/hosts.toml",
            certificate,
            &[(
                b"server = 'https://HOST'\nca = 'hosts.toml'\n",
                &["hosts.toml (server.ca in ", "line 2): holds no certificate in PEM"],
            )],
        )
        .await;
    }
}
