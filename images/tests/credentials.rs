//! Logins of files and helpers, as registries see them.

mod fixture;

use std::path::Path;

use fixture::fake::{FakeRegistry, Reply, Request, honest};
use fixture::{TestImage, chain, is_root};
use serde_json::json;
use wharf_images::{Keychain, PullOptions, Store, StoreOptions};

/// Takes `Basic me:secret` and a bearer token for that or for the identity token `refresh`.
fn guarded(scheme: &str, image: &TestImage, request: &Request) -> Reply {
    let shown = request.headers.get("authorization").map(String::as_str);
    // me:secret
    let basic = shown == Some("Basic bWU6c2VjcmV0");
    let body = String::from_utf8_lossy(&request.body);
    let refresh = request.method == "POST"
        && body.contains("grant_type=refresh_token")
        && body.contains("refresh_token=refresh")
        && body.contains("scope=repository%3Ateam%2Fapp%3Apull")
        && body.contains("service=here");
    if request.path.starts_with("/token") {
        return match basic || refresh {
            true => Reply::new(200, r#"{"access_token":"t0k3n"}"#),
            false => Reply::new(401, ""),
        };
    }
    match scheme {
        "Basic" if basic => honest(image, request),
        "Bearer" if shown == Some("Bearer t0k3n") => honest(image, request),
        "Basic" => Reply::new(401, "").header("www-authenticate", "Basic realm=\"x\""),
        _ => {
            let realm = format!("http://{}/token", request.headers["host"]);
            Reply::new(401, "").header("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"here\""))
        }
    }
}

fn store(root: &Path, keychain: Keychain) -> Store {
    Store::open_with(&root.join("store"), StoreOptions { keychain, ..StoreOptions::default() }).unwrap()
}

async fn pull(registry: &FakeRegistry, keychain: Keychain) -> Result<wharf_images::Image, String> {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), keychain);
    store.pull(&registry.reference("team/app"), PullOptions::default()).await.map_err(|error| chain(&*error))
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_files_are_shown_to_the_registry_they_are_for() {
    if !is_root("logins_of_files_are_shown_to_the_registry_they_are_for") {
        return;
    }
    let image = TestImage::small("x");
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("auth.json"), folder.path().join("config.json"));
    let keychain = || Keychain::default().and_file(&first).and_required_file(&second);
    let write = |path: &Path, text: serde_json::Value| std::fs::write(path, text.to_string()).unwrap();
    for scheme in ["Basic", "Bearer"] {
        let served = image.clone();
        let registry = FakeRegistry::start(move |request| guarded(scheme, &served, request)).await;
        let place = |path: &str| format!("{}{path}", registry.address);
        write(&second, json!({"auths": {place(""): {"auth": "bWU6c2VjcmV0"}}}));
        assert_eq!(pull(&registry, keychain()).await.unwrap().id, image.id());
        // The more specific key decides, right or wrong, and so does the first file.
        write(&second, json!({"auths": {place(""): {"auth": "bWU6c2VjcmV0"}, place("/team"): {"auth": "eDp5"}}}));
        let wrong = pull(&registry, keychain()).await.unwrap_err();
        let key = format!("auths.\"{}\" in {}", place("/team"), second.display());
        assert!(wrong.contains("HTTP 401") && (scheme == "Bearer" || wrong.contains(&key)), "{wrong}");
        write(&first, json!({"auths": {place("/team/app"): {"auth": "bWU6c2VjcmV0"}}}));
        assert_eq!(pull(&registry, keychain()).await.unwrap().id, image.id());
        write(&first, json!({"auths": {"elsewhere": {"auth": "bWU6c2VjcmV0"}}}));
        write(&second, json!({}));
        let anonymous = pull(&registry, keychain()).await.unwrap_err();
        assert!(anonymous.contains("HTTP 401"), "{anonymous}");
        std::fs::remove_file(&first).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_are_changed_for_bearer_tokens_in_a_form() {
    if !is_root("identity_tokens_are_changed_for_bearer_tokens_in_a_form") {
        return;
    }
    let image = TestImage::small("x");
    let served = image.clone();
    let registry = FakeRegistry::start(move |request| guarded("Bearer", &served, request)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let text = json!({"auths": {registry.address.as_str(): {"identitytoken": "refresh"}}});
    std::fs::write(&file, text.to_string()).unwrap();
    assert_eq!(pull(&registry, Keychain::default().and_file(&file)).await.unwrap().id, image.id());
    let requests = registry.take_requests();
    assert!(requests.iter().any(|request| request == "POST /token"), "{requests:?}");
    assert!(requests.iter().all(|request| !request.contains("refresh")), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_or_helper_is_named_and_the_store_stays_as_it_was() {
    let image = TestImage::small("x");
    let registry = FakeRegistry::start(move |request| guarded("Basic", &image, request)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let broken = |text: &str| {
        std::fs::write(&file, text).unwrap();
        pull(&registry, Keychain::default().and_file(&file).helpers_in(folder.path()))
    };
    let line = broken("{\"auths\": {\"secret").await.unwrap_err();
    assert!(line.ends_with("auth.json: line 1, column 18: is no valid JSON") && !line.contains("secret"), "{line}");
    assert!(registry.take_requests().is_empty());
    let line = broken(r#"{"credsStore": "none"}"#).await.unwrap_err();
    assert!(line.contains("credential helper docker-credential-none (credsStore in /"), "{line}");
    assert!(line.contains("auth.json): cannot be run: No such file"), "{line}");
    let missing = pull(&registry, Keychain::default().and_required_file("/nonexistent/auth.json")).await.unwrap_err();
    assert!(missing.contains("read credentials in /nonexistent/auth.json: No such file"), "{missing}");
}
