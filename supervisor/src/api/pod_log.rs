//! The log of a pod's container: CRI records turned back into what the container wrote.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use inotify::{Inotify, WatchMask};
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::broadcast;

use super::kinds::text;
use super::pod_stream::chosen_container;
use super::query::Query;
use super::server::Api;
use super::status::ApiError;
use crate::pod::status::{ContainerState, Event};

const READ_BYTES: usize = 64 * 1024;

/// Folder of a pod's logs.
pub fn pod_log_folder(logs: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    logs.join(format!("{namespace}_{name}_{uid}"))
}

/// What of the log is wanted.
#[derive(Debug, Clone, Default)]
struct Options {
    timestamps: bool,
    since: Option<Timestamp>,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    /// One of the two, as the log names it; `None` for both.
    stream: Option<&'static [u8]>,
}

pub(super) async fn serve(api: &Api, namespace: &str, name: &str, query: &Query) -> Result<Response, ApiError> {
    let (pod, container) = chosen_container(api, namespace, name, query.get("container"))?;
    let uid = text(&pod, "/metadata/uid").to_owned();
    let options = Options {
        timestamps: query.flag("timestamps"),
        since: since(query)?,
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        stream: stream(query)?,
    };
    let folder = pod_log_folder(&api.pod_logs, namespace, name, &uid).join(&container);
    // Subscribed before the state is looked at, so that the end cannot slip through between.
    let events = api.node.subscribe();
    let attempts = attempts(&folder).await;
    let wanted = if query.flag("previous") { attempts.iter().rev().nth(1) } else { attempts.last() };
    let Some(&attempt) = wanted else {
        let which = if query.flag("previous") { "previous terminated container" } else { "container" };
        return Err(ApiError::BadRequest(format!("{which} {container:?} in pod {name:?} has no log (yet)")));
    };
    let path = folder.join(format!("{attempt}.log"));
    let mut file = File::open(&path).await.map_err(|error| internal(&path, &error))?;
    let mut text = Text { options, incomplete: Vec::new(), sent: 0 };
    let start = text.existing(&mut file).await.map_err(|error| internal(&path, &error))?;
    let follower = match query.flag("follow") && !query.flag("previous") {
        true => Some(Follower::new(api, &path, file, text, events, Owner { uid, container, attempt })?),
        false => None,
    };
    let start = stream::iter([Ok::<Bytes, Infallible>(start.into())]);
    let rest = stream::unfold(follower, |follower| async move {
        let mut follower = follower?;
        let bytes = follower.next().await?;
        Some((Ok(bytes.into()), Some(follower)))
    });
    Response::builder()
        .header(http::header::CONTENT_TYPE, "text/plain")
        .body(Body::from_stream(start.chain(rest)))
        .map_err(|error| ApiError::Internal(error.to_string()))
}

/// The end of a log: as many of its last lines and bytes, of both streams.
pub fn log_tail(path: &Path, lines: usize, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(READ_BYTES as u64);
    std::io::Seek::seek(&mut file, SeekFrom::Start(start))?;
    let mut records = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, READ_BYTES as u64), &mut records)?;
    // Half a record is none.
    let first = if start == 0 { 0 } else { records.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1) };
    let mut text = Text { options: Options::default(), incomplete: Vec::new(), sent: 0 };
    let mut output = Vec::new();
    text.convert(&records[first..], &mut output);
    output.drain(..tail_start(&output, lines).max(output.len().saturating_sub(bytes)));
    Ok(output)
}

fn stream(query: &Query) -> Result<Option<&'static [u8]>, ApiError> {
    match query.get("stream") {
        None | Some("" | "All") => Ok(None),
        Some("Stdout") => Ok(Some(b"stdout")),
        Some("Stderr") => Ok(Some(b"stderr")),
        Some(other) => Err(ApiError::BadRequest(format!("stream: {other:?} is not one of All, Stdout, Stderr"))),
    }
}

fn since(query: &Query) -> Result<Option<Timestamp>, ApiError> {
    if let Some(seconds) = query.number::<i64>("sinceSeconds")? {
        return Ok(Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok());
    }
    match query.get("sinceTime") {
        None => Ok(None),
        Some(time) => {
            let wrong = |_| ApiError::BadRequest(format!("sinceTime: {time:?} is not an RFC 3339 time"));
            time.parse().map(Some).map_err(wrong)
        }
    }
}

/// Numbers of the attempts that have a log, in order.
async fn attempts(folder: &Path) -> Vec<u32> {
    let mut attempts = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(folder).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            attempts.extend(name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse::<u32>().ok()));
        }
    }
    attempts.sort_unstable();
    attempts
}

fn internal(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::Internal(format!("read log {}: {error}", path.display()))
}

/// Turns records into text, a read at a time.
struct Text {
    options: Options,
    /// The start of a record whose end has not been read.
    incomplete: Vec<u8>,
    sent: usize,
}

impl Text {
    /// All that is in the file now, cut to the last lines where asked.
    async fn existing(&mut self, file: &mut File) -> std::io::Result<Vec<u8>> {
        let mut output = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        file.seek(SeekFrom::Start(0)).await?;
        loop {
            let length = file.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            self.convert(&buffer[..length], &mut output);
            if let Some(lines) = self.options.tail_lines {
                let cut = tail_start(&output, lines);
                output.drain(..cut);
            }
        }
        self.options.tail_lines = None;
        self.cut(&mut output);
        Ok(output)
    }

    /// Appends to `output` what the records in `bytes` say.
    fn convert(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        self.incomplete.extend_from_slice(bytes);
        let records = std::mem::take(&mut self.incomplete);
        let mut rest = records.as_slice();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.record(&rest[..end], output);
            rest = &rest[end + 1..];
        }
        self.incomplete = rest.to_vec();
    }

    fn record(&self, record: &[u8], output: &mut Vec<u8>) {
        let mut fields = record.splitn(4, |&byte| byte == b' ');
        let (Some(time), Some(stream), Some(tag)) = (fields.next(), fields.next(), fields.next()) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if time.is_none_or(|time| time < since) {
                return;
            }
        }
        if self.options.timestamps {
            output.extend_from_slice(time);
            output.push(b' ');
        }
        output.extend_from_slice(fields.next().unwrap_or_default());
        if tag == b"F" {
            output.push(b'\n');
        }
    }

    fn cut(&mut self, output: &mut Vec<u8>) {
        if let Some(limit) = self.options.limit_bytes {
            output.truncate(limit.saturating_sub(self.sent));
        }
        self.sent += output.len();
    }

    fn is_full(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.sent >= limit)
    }
}

/// Where the last `lines` lines begin.
fn tail_start(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return text.len();
    }
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.nth(lines - 1).map_or(0, |(index, _)| index + 1)
}

/// The container whose log is followed.
struct Owner {
    uid: String,
    container: String,
    attempt: u32,
}

/// Waits for more of a log until its container has ended.
struct Follower {
    api: Api,
    file: File,
    text: Text,
    changes: inotify::EventStream<[u8; 1024]>,
    events: broadcast::Receiver<Event>,
    owner: Owner,
    ended: bool,
}

impl Follower {
    fn new(
        api: &Api,
        path: &Path,
        file: File,
        text: Text,
        events: broadcast::Receiver<Event>,
        owner: Owner,
    ) -> Result<Self, ApiError> {
        let watch = || -> std::io::Result<_> {
            let inotify = Inotify::init()?;
            inotify.watches().add(path, WatchMask::MODIFY)?;
            inotify.into_event_stream([0; 1024])
        };
        let changes = watch().map_err(|error| internal(path, &error))?;
        Ok(Self { api: api.clone(), file, text, changes, events, owner, ended: false })
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if self.text.is_full() {
                return None;
            }
            // Looked at before reading: what is written up to the end is then read below.
            let ends_here = self.ended || self.has_ended();
            let length = self.file.read(&mut buffer).await.ok()?;
            if length > 0 {
                let mut output = Vec::new();
                self.text.convert(&buffer[..length], &mut output);
                self.text.cut(&mut output);
                if !output.is_empty() {
                    return Some(output);
                }
                continue;
            }
            if ends_here {
                return None;
            }
            tokio::select! {
                change = self.changes.next() => drop(change?),
                event = self.events.recv() => self.ended |= matches!(event, Err(broadcast::error::RecvError::Closed)),
            }
        }
    }

    fn has_ended(&self) -> bool {
        let owner = &self.owner;
        let sandboxes = self.api.node.sandboxes_of(&owner.uid);
        let mut containers = sandboxes.iter().flat_map(|s| self.api.node.containers_of(&s.id));
        let status = containers.find(|c| c.config.name == owner.container && c.config.attempt == owner.attempt);
        status.is_none_or(|status| !matches!(status.state, ContainerState::Created | ContainerState::Running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(options: Options, chunks: &[&str]) -> String {
        let mut text = Text { options, incomplete: Vec::new(), sent: 0 };
        let mut output = Vec::new();
        for chunk in chunks {
            text.convert(chunk.as_bytes(), &mut output);
        }
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn partial_records_are_joined() {
        let log = ["2026-01-01T00:00:00.1Z stdout P he", "llo\n2026-01-01T00:00:00.2Z stdout F  you\n"];
        assert_eq!(converted(Options::default(), &log), "hello you\n");
    }

    #[test]
    fn timestamps_and_since_select() {
        let log = ["2026-01-01T00:00:00Z stdout F old\n2026-01-02T00:00:00Z stderr F new\n"];
        let since = "2026-01-01T12:00:00Z".parse().ok();
        let options = Options { timestamps: true, since, ..Options::default() };
        assert_eq!(converted(options, &log), "2026-01-02T00:00:00Z new\n");
    }

    #[test]
    fn one_stream_may_be_chosen() {
        let log =
            ["2026-01-01T00:00:00Z stdout F out\n2026-01-02T00:00:00Z stderr P er\n2026-01-02T00:00:00Z stderr F r\n"];
        assert_eq!(converted(Options { stream: Some(b"stderr"), ..Options::default() }, &log), "err\n");
        assert_eq!(converted(Options { stream: Some(b"stdout"), ..Options::default() }, &log), "out\n");
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        for (text, lines, expected) in
            [("a\nb\nc\n", 2, "b\nc\n"), ("a\nb", 1, "b"), ("a\n", 5, "a\n"), ("a\nb\n", 0, "")]
        {
            assert_eq!(&text[tail_start(text.as_bytes(), lines)..], expected);
        }
    }
}
