//! Writing the archive: whole or not at all, for root alone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::super::ids::new_id;
use super::patience::Patience;

const MODE: u32 = 0o600;

/// Puts files into an archive at its place, once [`finish`](Self::finish) was called. Dropped before, nothing is left.
pub(super) struct Archive<'a> {
    tar: Builder<File>,
    temporary: Temporary,
    location: PathBuf,
    /// Writing ends in an error once this is over.
    patience: &'a Patience,
}

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed already is fine.
        let _ = fs::remove_file(&self.0);
    }
}

impl<'a> Archive<'a> {
    /// Begins one that will be at `location`, which has a file name.
    pub(super) fn create(location: &Path, patience: &'a Patience) -> io::Result<Self> {
        let name = location.file_name().unwrap_or_default().to_string_lossy();
        let temporary = Temporary(location.with_file_name(format!(".{name}.{}", new_id())));
        let file = File::options().write(true).create_new(true).mode(MODE).open(&temporary.0)?;
        Ok(Self { tar: Builder::new(file), temporary, location: location.into(), patience })
    }

    pub(super) fn text(&mut self, name: &str, text: &[u8]) -> io::Result<()> {
        self.member(name, text.len() as u64, text)
    }

    /// A file of ours; one that is not there is left out.
    pub(super) fn file(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let length = file.metadata()?.len();
        self.member(name, length, file)
    }

    /// A directory of ours with the files in it, in the order of their names.
    pub(super) fn directory(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let mut header = header(EntryType::Directory, 0);
        header.set_mode(0o700);
        header.set_path(format!("{name}/"))?;
        header.set_cksum();
        self.tar.append(&header, io::empty())?;
        let mut files = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            self.file(&format!("{name}/{}", file.to_string_lossy()), &path.join(&file))?;
        }
        Ok(())
    }

    fn member(&mut self, name: &str, length: u64, content: impl Read) -> io::Result<()> {
        let mut header = header(EntryType::Regular, length);
        header.set_path(name)?;
        header.set_cksum();
        self.tar.append(&header, Patient { content: content.take(length), patience: self.patience })
    }

    /// Puts the archive into its place.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.tar.finish()?;
        self.tar.get_mut().flush()?;
        self.tar.get_ref().sync_all()?;
        if !self.patience.place() {
            return Err(nobody_waits());
        }
        fs::rename(&self.temporary.0, &self.location)?;
        File::open(self.location.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

fn header(kind: EntryType, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(length);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    header.set_mtime(since.as_secs());
    header
}

/// A reader that fails once nobody waits for what is read.
struct Patient<'a, R> {
    content: R,
    patience: &'a Patience,
}

pub(super) fn nobody_waits() -> io::Error {
    io::Error::other("nobody waits for it any more")
}

impl<R: Read> Read for Patient<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.patience.is_over() {
            true => Err(nobody_waits()),
            false => self.content.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_archive_is_for_root_alone_and_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("c.tar");
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        fs::write(images.join("b.img"), b"bb").unwrap();
        fs::write(images.join("a.img"), b"a").unwrap();
        let write = |end: bool, patience: &Patience| -> io::Result<()> {
            let mut archive = Archive::create(&location, patience)?;
            archive.text("config.dump", b"{}")?;
            archive.directory("checkpoint", &images)?;
            archive.file("dump.log", &folder.path().join("none"))?;
            if end { archive.finish() } else { Ok(()) }
        };
        write(false, &Patience::default()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the images are there");
        write(true, &Patience::default()).unwrap();
        assert_eq!(fs::metadata(&location).unwrap().mode() & 0o7777, 0o600);
        let mut members = tar::Archive::new(File::open(&location).unwrap());
        let names: Vec<_> =
            members.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["config.dump", "checkpoint/", "checkpoint/a.img", "checkpoint/b.img"]);

        let over = Patience::default();
        over.give_up();
        fs::remove_file(&location).unwrap();
        assert!(write(true, &over).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
