//! One pod's journal on the disk. What a daemon that was killed has half written is the last line, and is passed over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Entry, Owner, What};

/// A file that has grown beyond is cut to its newest half.
pub(super) const MOST_BYTES: usize = 64 << 10;
/// Longest text of an entry.
const LONGEST_TEXT: usize = 2 << 10;

pub(super) fn path(folder: &Path, uid: &str) -> PathBuf {
    folder.join(format!("{uid}.jsonl"))
}

/// Whose it is, and what happened; `None` where there is no file, or none that says whose it is.
pub(super) fn read(path: &Path) -> Option<(Owner, Vec<Entry>)> {
    let mut text = Vec::new();
    // What an entry may add before the file is cut.
    File::open(path).ok()?.take(4 * MOST_BYTES as u64).read_to_end(&mut text).ok()?;
    parse(&text)
}

/// Lines that are no entries, as the last one of a daemon that was killed, are passed over.
pub(super) fn parse(text: &[u8]) -> Option<(Owner, Vec<Entry>)> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let owner = serde_json::from_slice(lines.next()?).ok()?;
    let mut entries: Vec<Entry> = Vec::new();
    for entry in lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()) {
        match entries.last_mut() {
            // The same again, counted on.
            Some(last) if last.at == entry.at && last.what == entry.what => *last = entry,
            _ => entries.push(entry),
        }
    }
    Some((owner, entries))
}

/// A pod's journal, as its keeper has it.
pub(super) struct Kept {
    path: PathBuf,
    owner: Owner,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Kept {
    pub(super) fn open(folder: &Path, owner: Owner) -> Self {
        let path = path(folder, &owner.uid);
        let (_, entries) = read(&path).unwrap_or_else(|| (owner.clone(), Vec::new()));
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len() as usize);
        Self { path, owner, entries, bytes }
    }

    /// Keeps an entry, on the disk when this returns; what is known already changes nothing.
    pub(super) fn add(&mut self, mut entry: Entry) -> io::Result<()> {
        shorten(&mut entry.what);
        if self.entries.iter().any(|known| known.what.is_same_moment(&entry.what)) {
            return Ok(());
        }
        if let Some(last) = self.entries.last_mut().filter(|last| last.what == entry.what) {
            last.count = last.count.saturating_add(1);
            last.until = Some(entry.at);
            // Every one is counted, and fewer and fewer of them are written.
            if !last.count.is_power_of_two() {
                return Ok(());
            }
            let line = last.clone();
            return self.append(&line);
        }
        // How often it was is settled now.
        if let Some(last) = self.entries.last().filter(|last| !last.count.is_power_of_two()).cloned() {
            self.append(&last)?;
        }
        self.append(&entry)?;
        self.entries.push(entry);
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        if self.bytes == 0 || self.bytes > MOST_BYTES {
            self.rewrite()?;
        }
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        // Ends a line that was cut off, too.
        let line = format!("\n{}", serde_json::to_string(entry)?);
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        self.bytes += line.len();
        Ok(())
    }

    /// The owner and the newest entries, as many as fit into half of the file.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().rev() {
            let line = serde_json::to_string(entry)?;
            bytes += line.len() + 1;
            if bytes > MOST_BYTES / 2 {
                break;
            }
            lines.push(line);
        }
        self.entries.drain(..self.entries.len() - lines.len());
        lines.push(serde_json::to_string(&self.owner)?);
        lines.reverse();
        let text = lines.join("\n");
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.bytes = text.len();
        Ok(())
    }
}

fn shorten(what: &mut What) {
    let texts: Vec<&mut String> = match what {
        What::Started { .. } => Vec::new(),
        What::Ended { message, log, .. } => vec![message, log],
        What::Told { message, .. } | What::Changed { message } => vec![message],
    };
    for text in texts.into_iter().filter(|text| text.len() > LONGEST_TEXT) {
        // The end says most.
        let mut start = text.len() - LONGEST_TEXT;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text.drain(..start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { namespace: "default".into(), name: "web".into(), uid: "u".into() }
    }

    fn told(at: usize, message: &str) -> Entry {
        let what = What::Told { container: "c".into(), reason: "Unhealthy".into(), message: message.into() };
        Entry { at: format!("t{at}"), what, count: 1, until: None }
    }

    fn ended(id: &str) -> Entry {
        let what = What::Ended {
            container: "c".into(),
            id: id.into(),
            attempt: 0,
            exit_code: 1,
            reason: "Error".into(),
            ran_seconds: 1,
            oom: None,
            message: String::new(),
            log: "x".repeat(5000),
        };
        Entry { at: "t".into(), what, count: 1, until: None }
    }

    #[test]
    fn entries_survive_a_write_that_was_cut_off_and_repeat_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(folder.path(), owner());
        kept.add(ended("a")).unwrap();
        for at in 0..5 {
            kept.add(told(at, "no answer")).unwrap();
        }
        let path = path(folder.path(), "u");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n{\"at\":\"t9\",\"wh").unwrap();
        let mut kept = Kept::open(folder.path(), owner());
        kept.add(ended("a")).unwrap();
        kept.add(told(3, "no answer")).unwrap();
        kept.add(told(4, "no answer")).unwrap();
        kept.add(told(5, "no answer")).unwrap();
        kept.add(ended("b")).unwrap();
        let (found, entries) = read(&path).unwrap();
        assert_eq!((found, entries.len()), (owner(), 3));
        assert_eq!((entries[1].count, entries[1].until.as_deref()), (7, Some("t5")));
        assert!(matches!(&entries[0].what, What::Ended { log, .. } if log.len() == LONGEST_TEXT));
    }

    #[test]
    fn a_journal_is_bounded_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(folder.path(), owner());
        for at in 0..200 {
            kept.add(told(at, &format!("{at} {}", "x".repeat(1000)))).unwrap();
        }
        let path = path(folder.path(), "u");
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * MOST_BYTES as u64);
        let (_, entries) = read(&path).unwrap();
        assert_eq!(entries.last().unwrap().at, "t199");
        assert!(entries.len() >= 20 && Kept::open(folder.path(), owner()).entries == entries);
    }

    #[test]
    fn nothing_that_is_almost_a_journal_breaks_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(folder.path(), owner());
        kept.add(told(0, "a\"\u{e4}\\")).unwrap();
        let text = std::fs::read(path(folder.path(), "u")).unwrap();
        for at in 0..text.len() {
            parse(&text[..at]);
            for byte in *b"\"{}\\\n\xff0" {
                let mut slip = text.clone();
                slip[at] = byte;
                parse(&slip);
            }
        }
    }
}
