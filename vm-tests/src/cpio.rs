//! The archive format of an initramfs: cpio, "newc" (kernel documentation, driver-api/early-userspace/buffer-format).

use std::io::{self, Read, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Numeric ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owner {
    pub user: u32,
    pub group: u32,
}

/// Writes entries one after the other. Parents must come before what lies in them.
pub struct Writer<W> {
    output: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub fn new(output: W) -> Self {
        Self { output, inode: 0 }
    }

    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.owned_directory(path, permissions, Owner::default())
    }

    pub fn owned_directory(&mut self, path: &str, permissions: u32, owner: Owner) -> io::Result<()> {
        self.entry(path, DIRECTORY | permissions, owner, 2, 0, &mut io::empty()).map(drop)
    }

    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, Owner::default(), 1, target.len() as u64, &mut target.as_bytes()).map(drop)
    }

    /// `content` must hold `length` bytes at least; the rest is not read.
    pub fn file(&mut self, path: &str, permissions: u32, length: u64, content: &mut dyn Read) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, Owner::default(), 1, length, content).map(drop)
    }

    /// As [`Writer::file`]; gives back the number by which [`Writer::hard_link`] knows the file.
    pub fn owned_file(
        &mut self,
        path: &str,
        permissions: u32,
        owner: Owner,
        length: u64,
        content: &mut dyn Read,
    ) -> io::Result<u32> {
        // With a second link announced the kernel remembers the file.
        self.entry(path, REGULAR | permissions, owner, 2, length, content)
    }

    /// Another name of a file that was written before.
    pub fn hard_link(&mut self, path: &str, permissions: u32, owner: Owner, inode: u32) -> io::Result<()> {
        let next = std::mem::replace(&mut self.inode, inode - 1);
        let written = self.entry(path, REGULAR | permissions, owner, 2, 0, &mut io::empty());
        self.inode = next;
        written.map(drop)
    }

    /// Ends the archive and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, Owner::default(), 1, 0, &mut io::empty())?;
        self.output.flush()?;
        Ok(self.output)
    }

    /// Writes an entry and returns its inode number.
    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        owner: Owner,
        links: u32,
        length: u64,
        content: &mut dyn Read,
    ) -> io::Result<u32> {
        let name = path.trim_start_matches('/');
        let size = u32::try_from(length)
            .map_err(|_| io::Error::other(format!("{path} has {length} bytes, more than a cpio entry can hold")))?;
        self.inode += 1;
        // inode, mode, uid, gid, links, mtime, size, device and rdev as major and minor, name with its NUL, checksum
        let name_size = name.len() as u32 + 1;
        let fields = [self.inode, mode, owner.user, owner.group, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        header += name;
        header.push('\0');
        self.output.write_all(header.as_bytes())?;
        self.pad(header.len() as u64)?;
        let copied = io::copy(&mut content.take(length), &mut self.output)?;
        if copied != length {
            return Err(io::Error::other(format!("{path} became shorter while it was read")));
        }
        self.pad(length)?;
        Ok(self.inode)
    }

    /// Names and contents start at multiples of four bytes.
    fn pad(&mut self, written: u64) -> io::Result<()> {
        let missing = (4 - written % 4) % 4;
        self.output.write_all(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_archive_is_ended() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("/bin", 0o755).expect("directory");
        writer.file("/bin/a", 0o755, 5, &mut &b"hello"[..]).expect("file");
        writer.link("/bin/b", "a").expect("link");
        let archive = writer.finish().expect("finish");
        assert_eq!(archive.len() % 4, 0);
        // 110 bytes of header, "bin\0" ends at 114, padded to 116.
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[110..122], b"bin\0\0\x00070701");
        // "bin/a\0" ends at 232, which needs no padding; five bytes of content are padded to eight.
        assert_eq!(&archive[232..246], b"hello\0\0\x00070701");
        assert!(archive.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }

    #[test]
    fn a_file_that_is_shorter_than_announced_is_an_error() {
        let error = Writer::new(Vec::new()).file("/a", 0o644, 9, &mut &b"short"[..]).expect_err("must fail");
        assert_eq!(error.to_string(), "/a became shorter while it was read");
    }
}
