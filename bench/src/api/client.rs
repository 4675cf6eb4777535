//! The Kubernetes API of a node, asked over its socket: one request for each connection.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How long anything asked for has until it is there.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The object in the answer.
    ///
    /// # Errors
    /// Nobody answers, or it is a refusal.
    pub(super) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        object_in(&self.answer(method, path, body)?).with_context(|| format!("{method} {path}"))
    }

    /// How long it takes until the whole answer is here; what the client makes of it takes its own time.
    pub(super) fn time_of(&self, path: &str) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let answer = self.answer("GET", path, None)?;
        let taken = begin.elapsed();
        object_in(&answer).with_context(|| format!("GET {path}"))?;
        Ok(taken)
    }

    fn answer(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(&self.socket)?;
        // HTTP/1.0: the answer ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// Waits until the object, a list too, is as `is_there` wants it.
    pub(super) fn wait_for(&self, path: &str, is_there: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !is_there(&self.request("GET", path, None)?) {
            if begin.elapsed() > PATIENCE {
                bail!("{path} is not as it should be after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn object_in(answer: &[u8]) -> anyhow::Result<Value> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("an answer without an end")?;
    let status: u16 = std::str::from_utf8(answer.get(9..12).unwrap_or_default())?.parse()?;
    let object = serde_json::from_slice(&answer[end + 4..])?;
    if status >= 300 {
        bail!("{status}: {object}");
    }
    Ok(object)
}
