//! Directories: those that members describe, and those they only lie in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::attributes;
use super::path::{Place, resolve};
use super::{BLOCK_BYTES, Layer, UnpackError, failed, refused};
use crate::tar_stream::{Kind, Member};
use crate::whiteout::{self, Form};

impl Layer<'_> {
    pub(super) fn describe_root(&mut self, member: &Member) -> Result<(), UnpackError> {
        if member.kind != Kind::Directory {
            return Err(refused(member, "the layer's root must be a directory"));
        }
        self.implied.remove(&[][..]);
        self.directory_times.insert(Vec::new(), member.mtime);
        attributes(self.root, member)
    }

    /// One that was made, with the block it takes on disk.
    fn count_directory(&mut self) {
        self.inodes += 1;
        self.disk_bytes += BLOCK_BYTES;
    }

    pub(super) fn make_directory(&mut self, path: &[u8], place: &Place, member: &Member) -> Result<(), UnpackError> {
        let parent = self.directory(&place.parent, member)?;
        let mut hides_lower = false;
        match fs::mkdirat(&parent, &*place.name, Mode::RWXU) {
            Ok(()) => self.count_directory(),
            Err(Errno::EXIST) => {
                let stat = self.existing(&parent, place, member)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    let is_whiteout = whiteout::is_whiteout(parent.as_fd(), &place.name, &stat);
                    hides_lower = is_whiteout.map_err(failed(member, "open"))?;
                    fs::unlinkat(&parent, &*place.name, AtFlags::empty()).map_err(failed(member, "replace"))?;
                    fs::mkdirat(&parent, &*place.name, Mode::RWXU).map_err(failed(member, "mkdir"))?;
                    self.count_directory();
                }
            }
            Err(errno) => return Err(failed(member, "mkdir")(errno)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory =
            fs::openat(&parent, &*place.name, flags, Mode::empty()).map_err(failed(member, "open directory"))?;
        attributes(directory.as_fd(), member)?;
        if hides_lower {
            self.make_opaque(directory.as_fd(), member)?;
        }
        // Its path may lead through symlinks of this layer; only the plain way is remembered as described.
        self.implied.remove(path);
        self.directory_times.insert(path.to_vec(), member.mtime);
        self.give_back(&place.parent, parent);
        self.parent = Some((path.to_vec(), directory));
        Ok(())
    }

    /// A whiteout beside what this very layer has under the name: the layer's own stays, the lower ones' goes.
    pub(super) fn hide(&mut self, parent: &[u8], hidden: &[u8], member: &Member) -> Result<(), UnpackError> {
        let directory = self.directory(parent, member)?;
        match whiteout::entry(directory.as_fd(), hidden).map_err(failed(member, "stat"))? {
            None => {
                let form = whiteout::create(directory.as_fd(), hidden).map_err(failed(member, "make whiteout"))?;
                self.own_marks |= form == Form::Own;
                self.inodes += 1;
            }
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                let own = fs::openat(&directory, hidden, flags, Mode::empty()).map_err(failed(member, "open"))?;
                self.make_opaque(own.as_fd(), member)?;
            }
            Some(_) => {}
        }
        self.give_back(parent, directory);
        Ok(())
    }

    pub(super) fn make_opaque(&mut self, directory: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
        let form = whiteout::set_opaque(directory).map_err(failed(member, "set opaque"))?;
        self.own_marks |= form == Form::Own;
        Ok(())
    }

    /// Opens a member's directory, making what is missing of it.
    pub(super) fn directory(&mut self, path: &[u8], member: &Member) -> Result<OwnedFd, UnpackError> {
        if let Some((_, descriptor)) = self.parent.take_if(|(cached, _)| cached == path) {
            return Ok(descriptor);
        }
        match resolve(self.root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_implied(path, member),
            Err(Errno::LOOP) => Err(refused(member, "lies below a symlink that leads nowhere")),
            other => other.map_err(failed(member, "open directory")),
        }
    }

    pub(super) fn make_implied(&mut self, path: &[u8], member: &Member) -> Result<OwnedFd, UnpackError> {
        let mut at = 0;
        let mut directory = resolve(self.root, b"").map_err(failed(member, "open root"))?;
        while at < path.len() {
            let end = path[at..].iter().position(|byte| *byte == b'/').map_or(path.len(), |n| at + n);
            let sofar = &path[..end];
            directory = match resolve(self.root, sofar) {
                Err(Errno::NOENT) => {
                    self.count(1)?;
                    match fs::mkdirat(&directory, &path[at..end], Mode::RWXU) {
                        // There, but leading nowhere: a dangling symlink, or a whiteout of this layer.
                        Err(Errno::EXIST) => {
                            return Err(refused(member, "lies below a symlink that leads nowhere"));
                        }
                        other => other.map_err(failed(member, "mkdir"))?,
                    }
                    self.count_directory();
                    self.implied.insert(sofar.to_vec());
                    let made = resolve(self.root, sofar).map_err(failed(member, "open directory"))?;
                    fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed(member, "chmod"))?;
                    made
                }
                // A whiteout and then something below it: the directory is new, and hides the old.
                Err(Errno::NOTDIR) => match whiteout::entry(directory.as_fd(), &path[at..end]) {
                    Ok(Some(stat)) if whiteout::is_whiteout(directory.as_fd(), &path[at..end], &stat) == Ok(true) => {
                        fs::unlinkat(&directory, &path[at..end], AtFlags::empty())
                            .map_err(failed(member, "replace"))?;
                        fs::mkdirat(&directory, &path[at..end], Mode::RWXU).map_err(failed(member, "mkdir"))?;
                        self.count_directory();
                        let made = resolve(self.root, sofar).map_err(failed(member, "open directory"))?;
                        fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed(member, "chmod"))?;
                        self.make_opaque(made.as_fd(), member)?;
                        made
                    }
                    _ => return Err(refused(member, "lies below something that is no directory")),
                },
                other => other.map_err(failed(member, "open directory"))?,
            };
            at = end + 1;
        }
        Ok(directory)
    }

    pub(super) fn give_back(&mut self, path: &[u8], directory: OwnedFd) {
        self.parent = Some((path.to_vec(), directory));
    }
}
