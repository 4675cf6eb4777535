//! A part of a file as the body of a request, and whether anything moves.

use std::io::SeekFrom;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream;
use reqwest::Body;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;

use super::Upload;

const READ_BYTES: usize = 128 << 10;

/// When the connection last took something of a body, and whether there is more to take.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<Seen>>);

struct Seen {
    last: Instant,
    is_all_sent: bool,
}

impl Default for Activity {
    /// Of a request without a body.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Seen { last: Instant::now(), is_all_sent: true })))
    }
}

impl Activity {
    fn moved(&self, is_all_sent: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Seen { last: Instant::now(), is_all_sent };
    }

    /// Ends when nothing has moved for `while_sending`, or no answer came for `at_the_end` after all was sent.
    pub(super) async fn silence(&self, while_sending: Duration, at_the_end: Duration) {
        loop {
            let end = {
                let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                seen.last + if seen.is_all_sent { at_the_end } else { while_sending }
            };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// `length` bytes of the file from `offset` on, read as they are taken.
pub(super) fn of_file(upload: &Upload, offset: u64, length: u64, activity: &Activity) -> Body {
    if length == 0 {
        return Body::from("");
    }
    let (path, report, activity) = (upload.file.clone(), upload.report.clone(), activity.clone());
    activity.moved(false);
    Body::wrap_stream(stream::try_unfold((None, 0), move |(file, sent): (Option<File>, u64)| {
        let (path, report, activity) = (path.clone(), report.clone(), activity.clone());
        async move {
            if sent == length {
                return Ok(None);
            }
            let mut file = match file {
                Some(file) => file,
                None => {
                    let mut file = File::open(&path).await?;
                    file.seek(SeekFrom::Start(offset)).await?;
                    file
                }
            };
            let wanted = READ_BYTES.min(usize::try_from(length - sent).unwrap_or(READ_BYTES));
            let mut bytes = BytesMut::zeroed(wanted);
            file.read_exact(&mut bytes).await?;
            let sent = sent + wanted as u64;
            // Who asks for the next piece has taken the last; behind the whole length nobody asks.
            report(offset + sent);
            activity.moved(sent == length);
            Ok::<_, std::io::Error>(Some((bytes.freeze(), (Some(file), sent))))
        }
    }))
}
