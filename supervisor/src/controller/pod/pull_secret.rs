//! Logins for the images of a pod, out of the Secrets that it names in `imagePullSecrets`.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use wharf_images::credentials::login_in;
use wharf_images::{CredentialError, Credentials, Reference};

use super::source::Sources;

/// The older form has no `auths` around its logins.
const KEYS: [(&str, bool); 2] = [(".dockerconfigjson", true), (".dockercfg", false)];

/// Documents in the form of docker's `config.json`, in the order of the pod.
#[derive(Default)]
pub(super) struct PullSecrets {
    documents: Vec<(String, Vec<u8>)>,
    /// Secrets that are not there, or have no logins.
    pub(super) missing: Vec<String>,
}

impl PullSecrets {
    /// As they are now: a Secret that changes is known to the next pull.
    pub(super) fn of(pod: &Pod, sources: &Sources<'_>) -> Self {
        let mut found = Self::default();
        let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        for name in named.map(|secret| secret.name.as_str()).filter(|name| !name.is_empty()) {
            let mut data = sources.secret(name, true).ok().flatten().unwrap_or_default();
            match KEYS.iter().find_map(|(key, is_whole)| data.remove(*key).map(|bytes| (bytes, *is_whole))) {
                Some((bytes, true)) => found.documents.push((name.into(), bytes)),
                Some((bytes, false)) => {
                    found.documents.push((name.into(), [b"{\"auths\":", bytes.as_slice(), b"}"].concat()));
                }
                None => found.missing.push(name.into()),
            }
        }
        found
    }

    /// Those for the repository of `image`.
    ///
    /// # Errors
    /// A document that cannot be read; it is named, and nothing of it is said.
    pub(super) fn logins(&self, image: &Reference) -> Result<Vec<Credentials>, CredentialError> {
        let found =
            self.documents.iter().map(|(name, bytes)| login_in(Path::new(&format!("Secret {name}")), bytes, image));
        found.filter_map(Result::transpose).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(documents: &[&str]) -> PullSecrets {
        let documents = documents.iter().enumerate().map(|(n, text)| (format!("s{n}"), text.as_bytes().to_vec()));
        PullSecrets { documents: documents.collect(), missing: Vec::new() }
    }

    #[test]
    fn each_secret_has_its_most_specific_login() {
        let image: Reference = "registry.test/team/web:1".parse().unwrap();
        let login = |text: &str| format!(r#"{{"auth":"{text}"}}"#);
        // The first is no base64; `b:2` and `c:3`.
        let (a, b, c) = (login("YTox!"), login("Yjoy"), login("Yzoz"));
        let both = format!(r#"{{"auths":{{"registry.test":{b},"registry.test/team":{c}}}}}"#);
        let other = format!(r#"{{"auths":{{"other.test":{b}}}}}"#);
        let found = secrets(&[&other, &both]).logins(&image).unwrap();
        assert_eq!(found, [Credentials::Basic { username: "c".into(), password: "3".into() }]);
        // Nobody gets a program of the node to run by a Secret.
        let helper = r#"{"credsStore":"evil","credHelpers":{"registry.test":"evil"}}"#;
        assert_eq!(secrets(&[helper]).logins(&image).unwrap(), []);
        let broken =
            secrets(&[&format!(r#"{{"auths":{{"registry.test":{a}}}}}"#)]).logins(&image).unwrap_err().to_string();
        assert!(broken.contains("Secret s0") && !broken.contains("YTox"), "{broken}");
    }
}
