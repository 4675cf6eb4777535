//! Mirrors, TLS and proxies, as the files say.

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::fake::{FakeRegistry, Reply, Request, honest};
use fixture::{DebianRegistry, TestImage, chain, is_installed, is_root};
use wharf_images::registries::Proxies;
use wharf_images::{Credentials, Image, Keychain, PullOptions, Reference, Registries, Store, StoreOptions};

/// A folder with a `registries.toml` or a `certs.d`, and a new store for each pull.
struct Setup(tempfile::TempDir);

impl Setup {
    fn new() -> Self {
        fixture::install_tls();
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What `text` as `registries.toml` makes of the files.
    fn toml(&self, text: &str) -> Registries {
        Registries::default().with_file(self.write("registries.toml", text))
    }

    fn hosts(&self, host: &str, text: &str) -> Registries {
        self.write(&format!("certs.d/{host}/hosts.toml"), text);
        Registries::default().and_hosts_folder(self.0.path().join("certs.d"))
    }

    async fn pull(
        &self,
        registries: Registries,
        reference: impl Into<String>,
        options: PullOptions,
    ) -> Result<Image, String> {
        let root = tempfile::tempdir().unwrap();
        let keychain = Keychain::default().and_file(self.0.path().join("auth.json"));
        let store_options = StoreOptions { registries, keychain, ..StoreOptions::default() };
        let store = Store::open_with(root.path(), store_options).unwrap();
        let reference: Reference = reference.into().parse().unwrap();
        store.pull(&reference, options).await.map_err(|error| chain(&*error))
    }
}

async fn serving(image: &TestImage) -> FakeRegistry {
    let image = image.clone();
    FakeRegistry::start(move |request| honest(&image, request)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order_and_the_registry_last() {
    if !is_root("mirrors_are_asked_in_order_and_the_registry_last") {
        return;
    }
    let image = TestImage::small("x");
    let (mirror, own) = (serving(&image).await, serving(&image).await);
    let broken = FakeRegistry::start(|_| Reply::new(404, "")).await;
    let setup = Setup::new();
    let text =
        format!("[registry.'{}/team']\nmirrors = ['{}/x', '{}/hub']\n", own.address, broken.address, mirror.address);
    let reference = format!("{}/team/app:v1", own.address);
    let pulled = setup.pull(setup.toml(&text), &reference, PullOptions::default()).await.unwrap();
    assert_eq!(pulled.repo_tags.join(" "), reference);
    assert_eq!(broken.take_requests()[0], "GET /v2/x/app/manifests/v1");
    assert_eq!(mirror.take_requests()[0], "GET /v2/hub/app/manifests/v1");
    assert!(own.take_requests().is_empty());
    // Nobody there, and wrong content: as good as nothing.
    let lying =
        FakeRegistry::start(|_| Reply::new(200, "{}").header("docker-content-digest", wharf_images::Digest::of(b"")))
            .await;
    let text = format!("[registry.'{}']\nmirrors = ['127.0.0.1:1', '{}']\n", own.address, lying.address);
    setup.pull(setup.toml(&text), &reference, PullOptions::default()).await.unwrap();
    assert_eq!(lying.take_requests()[0], "GET /v2/team/app/manifests/v1");
    assert!(!own.take_requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_headers_go_only_where_they_belong() {
    if !is_root("logins_and_headers_go_only_where_they_belong") {
        return;
    }
    let image = TestImage::small("x");
    // me:secret and mirror:secret
    let (own_login, mirror_login) = ("Basic bWU6c2VjcmV0", "Basic bWlycm9yOnNlY3JldA==");
    let asked =
        |request: &Request, login: &str| request.headers.get("authorization").is_some_and(|shown| shown == login);
    let wants_login = || Reply::new(401, "").header("www-authenticate", "Basic");
    let storage = {
        let image = image.clone();
        FakeRegistry::start(move |request| {
            match request.headers.contains_key("authorization") || request.headers.contains_key("x-key") {
                true => Reply::new(400, ""),
                false => honest(&image, request),
            }
        })
        .await
    };
    let (there, served) = (storage.address.clone(), image.clone());
    let mirror = FakeRegistry::start(move |request| {
        assert!(request.headers["x-key"] == "abc" && request.path.contains("ns=127.0.0.1%3A"), "{request:?}");
        match request.path.contains("/blobs/") {
            _ if !asked(request, mirror_login) => wants_login(),
            true => Reply::new(307, "")
                .header("location", format!("http://{there}{}", request.path.split('?').next().unwrap())),
            false => honest(&served, &Request { path: "/v2/a/manifests/x".into(), ..request.clone() }),
        }
    })
    .await;
    let served = image.clone();
    let own = FakeRegistry::start(move |request| match asked(request, own_login) {
        true => honest(&served, request),
        false => wants_login(),
    })
    .await;
    let setup = Setup::new();
    let auth = serde_json::json!({"auths": {mirror.address.as_str(): {"auth": mirror_login.replace("Basic ", "")}}});
    setup.write("auth.json", &auth.to_string());
    let hosts = |capabilities: &str| {
        let text = format!(
            "server = 'http://{}'\n[host.'http://{}/cache']\ncapabilities = {capabilities}\nheader.x-key = 'abc'\n",
            own.address, mirror.address
        );
        setup.hosts(&own.address, &text)
    };
    let login = || PullOptions {
        credentials: Some(Credentials::Basic { username: "me".into(), password: "secret".into() }),
        ..PullOptions::default()
    };
    let reference = own.reference("a").to_string();
    let pulled = setup.pull(hosts("['pull', 'resolve']"), &reference, login()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert!(own.take_requests().is_empty());
    let requests = mirror.take_requests();
    assert!(requests.iter().all(|request| request.starts_with("GET /cache/v2/a/")), "{requests:?}");
    // Who may not say what a tag leads to is asked for content alone.
    setup.pull(hosts("['pull']"), &reference, login()).await.unwrap();
    assert_eq!(own.take_requests(), ["GET /v2/a/manifests/latest"; 2]);
    assert!(!mirror.take_requests().is_empty());
}

/// Files of an authority, of a server on loopback, and of a client.
fn certificates(folder: &Path) {
    let script = "set -e; new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        openssl req -x509 $new -keyout ca.key -out ca.pem -subj /CN=authority -days 3650
        for name in server client; do
            openssl req $new -keyout $name.key -out $name.csr -subj /CN=$name
            printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >extensions
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 3650 -extfile extensions
        done";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_the_files_say() {
    let test = "tls_is_as_the_files_say";
    if !is_root(test) || !is_installed("openssl", test) {
        return;
    }
    let Some(plain) = DebianRegistry::start(test) else {
        return;
    };
    let setup = Setup::new();
    let image = TestImage::small("x");
    plain.push("a", "latest", &image).await;
    let folder = setup.0.path();
    certificates(folder);
    let at = |name: &str| folder.join(name).display().to_string();
    let pair = format!("certificate: {}, key: {}", at("server.pem"), at("server.key"));
    let open = plain.again(&format!("tls: {{{pair}}}"));
    let closed = plain.again(&format!("tls: {{{pair}, clientcas: [{}]}}", at("ca.pem")));
    let (ca, client) = (
        format!("ca = '{}'\n", at("ca.pem")),
        format!("client_cert = '{}'\nclient_key = '{}'\n", at("client.pem"), at("client.key")),
    );
    let pull = |registry: &DebianRegistry, keys: &str| {
        let text = format!("[registry.'{}']\n{keys}", registry.address);
        setup.pull(setup.toml(&text), registry.reference("a").to_string(), PullOptions::default())
    };
    for (registry, keys) in [
        (&open, ca.as_str()),
        (&open, "insecure = 'no-verification'"),
        (&open, "insecure = true"),
        (&plain, "insecure = true"),
        (&plain, "insecure = 'http'"),
        (&closed, &format!("{ca}{client}")),
    ] {
        assert_eq!(pull(registry, keys).await.unwrap_or_else(|error| panic!("{keys}: {error}")).id, image.id());
    }
    for (registry, keys, part) in [
        (&open, "insecure = false", "no trust between it and us; `ca` in registries.toml names an authority"),
        (&closed, ca.as_str(), "`client_cert` our own"),
        (&plain, "insecure = false", "cannot connect"),
        (&open, "ca = '/nonexistent.pem'", "read /nonexistent.pem: No such file"),
        (&open, &format!("ca = '{}'", at("ca.key")), "ca.key (registry.\""),
        (
            &open,
            &format!("client_cert = '{0}'\nclient_key = '{0}'\n", at("ca.pem")),
            "expected a certificate and its private key",
        ),
    ] {
        let error = pull(registry, keys).await.expect_err(keys);
        assert!(error.contains(part) && !error.contains('\n'), "{keys}: {error}");
    }
    // containerd's files say the same in their own words, relative to where they are.
    for name in ["ca.pem", "client.pem", "client.key"] {
        setup.write(&format!("certs.d/_default/{name}"), &std::fs::read_to_string(folder.join(name)).unwrap());
    }
    let registries = setup.hosts("_default", "ca = 'ca.pem'\nclient = [['client.pem', 'client.key']]\n");
    let reference = closed.reference("a").to_string();
    let text =
        format!("server = 'https://{}'\nca = 'ca.pem'\nclient = [['client.pem', 'client.key']]\n", closed.address);
    setup.hosts("_default", &text);
    assert_eq!(setup.pull(registries, &reference, PullOptions::default()).await.unwrap().id, image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_for_what_lies_behind_them() {
    if !is_root("proxies_are_asked_for_what_lies_behind_them") {
        return;
    }
    let image = TestImage::small("x");
    let proxy = serving(&image).await;
    let setup = Setup::new();
    let proxies = |none: Option<&str>| Proxies {
        http: Some(format!("http://me:secret@{}", proxy.address)),
        none: none.map(str::to_owned),
        ..Proxies::default()
    };
    let plain = || PullOptions { plain_http: true, ..PullOptions::default() };
    let reference = "registry.invalid:5000/a";
    let pulled = setup.pull(Registries::default().with_proxies(proxies(None)), reference, plain()).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(proxy.take_requests()[0], "GET http://registry.invalid:5000/v2/a/manifests/latest");
    let without = Registries::default().with_proxies(proxies(Some("x.io,.invalid")));
    let error = setup.pull(without, reference, plain()).await.unwrap_err();
    assert!(error.contains("cannot connect") && !error.contains("secret"), "{error}");
    let broken = Proxies { http: Some("http://secret:secret@[".into()), ..Proxies::default() };
    let error = setup.pull(Registries::default().with_proxies(broken), reference, plain()).await.unwrap_err();
    assert!(error.contains("proxy named by HTTP_PROXY: expected a URL") && !error.contains("secret"), "{error}");
    assert!(proxy.take_requests().is_empty());
}
