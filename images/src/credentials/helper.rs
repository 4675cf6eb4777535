//! Credential helpers: `docker-credential-NAME get`, the server on standard input, JSON on standard output
//! (docker-credential-helpers, "Development").

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{CredentialError, CredentialSource, Credentials};

/// Tokens have a few kilobytes.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// How a helper says that it knows nobody there.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// A program to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Helper {
    pub(super) path: PathBuf,
    pub(super) server: String,
    pub(super) time: Duration,
    pub(super) source: CredentialSource,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    /// `None` if the helper knows nobody at that server. What it writes is never repeated: there may be a secret in
    /// it, whatever went wrong.
    pub(super) async fn ask(&self) -> Result<Option<Credentials>, CredentialError> {
        match tokio::time::timeout(self.time, self.run()).await {
            Ok(answer) => answer.map_err(|problem| self.failed(problem)),
            // The program is killed as its handle is dropped.
            Err(_) => Err(self.failed(format!("gives no answer in {:?}", self.time))),
        }
    }

    async fn run(&self) -> Result<Option<Credentials>, String> {
        let mut child = Command::new(&self.path)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot be run: {error}"))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("has no standard streams".into());
        };
        // A helper that does not read its question is judged by its answer.
        let _ = input.write_all(self.server.as_bytes()).await;
        drop(input);
        let mut answer = Vec::new();
        let read = output.take(ANSWER_MAX_BYTES + 1).read_to_end(&mut answer).await;
        read.map_err(|error| format!("its answer cannot be read: {error}"))?;
        if answer.len() as u64 > ANSWER_MAX_BYTES {
            return Err(format!("its answer is longer than {ANSWER_MAX_BYTES} bytes"));
        }
        let status = child.wait().await.map_err(|error| format!("cannot be waited for: {error}"))?;
        if !status.success() {
            return match answer.trim_ascii() == NOT_FOUND.as_bytes() {
                true => Ok(None),
                false => Err(format!("fails ({status}) for {}", self.server)),
            };
        }
        // Without the parser's words, which may quote the secret.
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| {
            "its answer is not the JSON object with `Username` and `Secret` that is expected".to_owned()
        })?;
        Ok(Some(match answer.username.as_str() {
            TOKEN_USER => Credentials::IdentityToken(answer.secret),
            _ => Credentials::Basic { username: answer.username, password: answer.secret },
        }))
    }

    fn failed(&self, problem: String) -> CredentialError {
        CredentialError::Helper {
            program: self.source.helper.clone().unwrap_or_default(),
            key: self.source.key.clone(),
            file: self.source.file.clone(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a helper that is this shell script makes of the question.
    async fn asked(script: &str, time: Duration) -> Result<Option<Credentials>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker-credential-test");
        // Written by another program: while this one has it open for writing, no thread of it could run it.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod 755 \"$2\"";
        let written = std::process::Command::new("sh").args(["-c", write, "sh", script]).arg(&path).status().unwrap();
        assert!(written.success());
        let source = CredentialSource {
            file: "/f".into(),
            key: "credsStore".into(),
            helper: Some("docker-credential-test".into()),
        };
        let helper = Helper { path, server: "https://index.docker.io/v1/".into(), time, source };
        helper.ask().await.map_err(|error| error.to_string())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_helper_is_asked_for_the_server_and_answers_in_json() {
        let script = r#"[ "$1" = get ] && read -r server; echo "{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"$server\"}""#;
        let expected = Credentials::Basic { username: "me".into(), password: "https://index.docker.io/v1/".into() };
        assert!(asked(script, LONG).await.unwrap() == Some(expected));
        let token = asked(r#"echo '{"Username":"<token>","Secret":"t"}'"#, LONG).await.unwrap();
        assert!(token == Some(Credentials::IdentityToken("t".into())));
        let unknown = asked("echo credentials not found in native keychain; exit 1", LONG).await.unwrap();
        assert!(unknown.is_none());
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_named_and_its_words_are_not_repeated() {
        for (script, part) in [
            ("echo secret; echo secret >&2; exit 3", "fails (exit status: 3) for https://index.docker.io/v1/"),
            ("echo secret", "its answer is not the JSON object"),
            (r#"echo '{"Username":"me","Secret":["secret"]}'"#, "its answer is not the JSON object"),
            ("exec yes secret", "its answer is longer than 65536 bytes"),
            ("kill -9 $$", "fails (signal: 9"),
        ] {
            let error = asked(script, LONG).await.unwrap_err();
            assert!(error.starts_with("credential helper docker-credential-test (credsStore in /f): "), "{error}");
            assert!(error.contains(part) && !error.contains("secret"), "{script}: {error}");
        }
        let endless = asked("exec tail -f /dev/null", Duration::from_millis(50)).await.unwrap_err();
        assert!(endless.ends_with("gives no answer in 50ms"), "{endless}");
    }
}
