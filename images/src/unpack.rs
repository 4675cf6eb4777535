//! Extracting one layer's members beneath a directory, in overlayfs' form.
//!
//! Nothing outside the layer's root can be reached: a member's directory is opened by
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` relative to the root's descriptor, and the member itself is
//! made by its last component in that descriptor, never through a symlink. Nobody else can reach the directory
//! while it is filled (it lies below a 0700 directory), so what was just made is still what it was.

mod attributes;
mod directory;
mod path;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use attributes::{attributes, owner, times, wanted_xattrs, xattr_result};
pub(crate) use path::clean;
use path::{Place, resolve, split};

use crate::layout::SnapshotRecord;
use crate::one_line::one_line;
use crate::tar_stream::{Kind, Member, TarError, TarStream};
use crate::whiteout::{self, Name};

/// The unit in which file systems give out space, for the account of what a snapshot takes.
const BLOCK_BYTES: u64 = 4096;

/// Bounds on what one layer may unpack to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the uncompressed archive, and of all files in it with their holes.
    pub layer_bytes: u64,
    /// Members, and the directories they imply.
    pub layer_members: u64,
}

impl Default for Limits {
    /// 64 GiB and four million members: several times the largest images in use.
    fn default() -> Self {
        Self { layer_bytes: 64 << 30, layer_members: 4 << 20 }
    }
}

/// Why a layer's archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Archive(#[from] TarError),
    #[error("member `{member}`: {problem}")]
    Refused { member: String, problem: String },
    #[error("member `{member}`: {operation}")]
    System {
        member: String,
        operation: &'static str,
        #[source]
        errno: Errno,
    },
    #[error("archive has more than {0} members")]
    TooManyMembers(u64),
    #[error("archive's files take more than {0} bytes")]
    TooLarge(u64),
}

impl UnpackError {
    /// Whether the archive is at fault, rather than this machine (disk full, no permission).
    pub(crate) fn is_archive_fault(&self) -> bool {
        !matches!(self, Self::System { .. })
    }
}

/// Directories the archive never described: they exist because something lies in them. Their owner, mode and
/// times are for the layers below to say.
pub(crate) type ImpliedDirectories = BTreeSet<Vec<u8>>;

/// Unpacks the whole archive into the directory `root`, which must be empty, and reads `input` to its end.
pub(crate) fn unpack<R: Read>(input: R, root: BorrowedFd<'_>, limits: Limits) -> Result<SnapshotRecord, UnpackError> {
    unpack_changes(input, root, limits, &[])
}

/// As [`unpack`]; what is at the paths `deleted` in layers below is hidden too.
pub(crate) fn unpack_changes<R: Read>(
    input: R,
    root: BorrowedFd<'_>,
    limits: Limits,
    deleted: &[Vec<u8>],
) -> Result<SnapshotRecord, UnpackError> {
    let mut stream = TarStream::new(input, limits.layer_bytes);
    let mut layer = Layer {
        root,
        limits,
        members: 0,
        bytes: 0,
        // The layer's own root is a directory.
        disk_bytes: BLOCK_BYTES,
        inodes: 1,
        own_marks: false,
        parent: None,
        implied: BTreeSet::from([Vec::new()]),
        directory_times: BTreeMap::new(),
    };
    while let Some(member) = stream.next_member()? {
        layer.count(1)?;
        layer.extract(&member, &mut stream)?;
    }
    stream.drain()?;
    for path in deleted {
        layer.count(1)?;
        layer.delete(path)?;
    }
    layer.finish()
}

struct Layer<'a> {
    root: BorrowedFd<'a>,
    limits: Limits,
    members: u64,
    bytes: u64,
    disk_bytes: u64,
    inodes: u64,
    /// Whether something is hidden in a form that is not overlayfs'.
    own_marks: bool,
    /// The directory last used: neighbours follow each other in an archive.
    parent: Option<(Vec<u8>, OwnedFd)>,
    implied: ImpliedDirectories,
    /// Set last: making files changes the times of their directories.
    directory_times: BTreeMap<Vec<u8>, (i64, u32)>,
}

impl Layer<'_> {
    fn extract<R: Read>(&mut self, member: &Member, stream: &mut TarStream<R>) -> Result<(), UnpackError> {
        let path = clean(&member.path).map_err(|problem| refused(member, problem))?;
        let Some(place) = split(&path) else {
            return self.describe_root(member);
        };
        match whiteout::parse(&place.name) {
            Name::Plain => {}
            Name::Skip => return Ok(()),
            Name::Invalid => return Err(refused(member, "is a whiteout of no file")),
            Name::Opaque => {
                let directory = self.directory(&place.parent, member)?;
                return self.make_opaque(directory.as_fd(), member);
            }
            Name::Whiteout(hidden) => return self.hide(&place.parent, hidden, member),
        }
        match member.kind {
            Kind::Directory => self.make_directory(&path, &place, member),
            Kind::File => self.make_file(&place, member, stream),
            Kind::HardLink => self.make_hard_link(&place, member),
            Kind::Symlink => self.make_symlink(&place, member),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.make_node(&place, member),
        }
    }

    /// Hides what layers below have at `path`; what this one has there stays.
    fn delete(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        let member = Member::whiteout(path);
        let path = clean(path).map_err(|problem| refused(&member, problem))?;
        let place = split(&path).ok_or_else(|| refused(&member, "is the root, which nobody can delete"))?;
        self.hide(&place.parent, &place.name, &member)
    }

    fn count(&mut self, members: u64) -> Result<(), UnpackError> {
        self.members += members;
        match self.members > self.limits.layer_members {
            true => Err(UnpackError::TooManyMembers(self.limits.layer_members)),
            false => Ok(()),
        }
    }

    fn make_file<R: Read>(
        &mut self,
        place: &Place,
        member: &Member,
        stream: &mut TarStream<R>,
    ) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(member.size);
        if self.bytes > self.limits.layer_bytes {
            return Err(UnpackError::TooLarge(self.limits.layer_bytes));
        }
        let archived = member.sparse.as_ref().map_or(member.size, |map| map.iter().map(|(_, length)| length).sum());
        self.disk_bytes += archived.next_multiple_of(BLOCK_BYTES);
        let parent = self.directory(&place.parent, member)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody else reaches it here. Whoever sets the special bits does so when the owner is right.
        let mode = Mode::from_raw_mode(member.mode & 0o777);
        let file = self.make(&parent, place, member, "create", || fs::openat(&parent, &*place.name, flags, mode))?;
        match &member.sparse {
            None => loop {
                let piece = stream.data()?;
                if piece.is_empty() {
                    break;
                }
                write_all(&file, piece, None).map_err(failed(member, "write"))?;
            },
            Some(map) => {
                fs::ftruncate(&file, member.size).map_err(failed(member, "truncate"))?;
                write_sparse(&file, map, member, stream)?;
            }
        }
        attributes(file.as_fd(), member)?;
        fs::futimens(&file, &times(member.mtime)).map_err(failed(member, "set times"))?;
        self.give_back(&place.parent, parent);
        Ok(())
    }

    fn make_hard_link(&mut self, place: &Place, member: &Member) -> Result<(), UnpackError> {
        let missing = || {
            let target = one_line(&member.link);
            refused(member, format!("hard link's target `{target}` is no file of this layer"))
        };
        let target =
            clean(&member.link).map_err(|problem| refused(member, format!("hard link's target: {problem}")))?;
        let target = split(&target).ok_or_else(missing)?;
        let directory = match resolve(self.root, &target.parent) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(missing()),
            Err(errno) => return Err(failed(member, "open hard link's directory")(errno)),
        };
        match whiteout::entry(directory.as_fd(), &target.name).map_err(failed(member, "stat hard link's target"))? {
            None => return Err(missing()),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(missing());
            }
            Some(stat) => {
                let is_whiteout = whiteout::is_whiteout(directory.as_fd(), &target.name, &stat);
                if is_whiteout.map_err(failed(member, "open hard link's target"))? {
                    return Err(missing());
                }
            }
        }
        let parent = self.directory(&place.parent, member)?;
        let same_directory = clean(&member.link).is_ok_and(|link| clean(&member.path) == Ok(link));
        if same_directory {
            return Err(refused(member, "is a hard link to itself"));
        }
        self.make(&parent, place, member, "link", || {
            fs::linkat(&directory, &*target.name, &parent, &*place.name, AtFlags::empty())
        })?;
        self.give_back(&place.parent, parent);
        Ok(())
    }

    fn make_symlink(&mut self, place: &Place, member: &Member) -> Result<(), UnpackError> {
        if member.link.is_empty() || member.link.contains(&0) {
            return Err(refused(member, "symlink's target is empty or has a NUL"));
        }
        let parent = self.directory(&place.parent, member)?;
        self.make(&parent, place, member, "symlink", || fs::symlinkat(&*member.link, &parent, &*place.name))?;
        self.node_attributes(&parent, place, member)?;
        self.give_back(&place.parent, parent);
        Ok(())
    }

    fn make_node(&mut self, place: &Place, member: &Member) -> Result<(), UnpackError> {
        let (major, minor) = member.device;
        let kind = match member.kind {
            Kind::CharDevice if (major, minor) == (0, 0) => {
                return Err(refused(member, "a character device 0:0 would be taken for a whiteout"));
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = match kind {
            FileType::Fifo => 0,
            _ => fs::makedev(major, minor),
        };
        let parent = self.directory(&place.parent, member)?;
        let mode = Mode::from_raw_mode(member.mode);
        self.make(&parent, place, member, "mknod", || fs::mknodat(&parent, &*place.name, kind, mode, device))?;
        self.node_attributes(&parent, place, member)?;
        self.give_back(&place.parent, parent);
        Ok(())
    }

    /// Makes what `make` makes; what had the name before is replaced, as a later member of an archive does.
    fn make<T>(
        &mut self,
        parent: &OwnedFd,
        place: &Place,
        member: &Member,
        operation: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        if member.kind != Kind::HardLink {
            self.inodes += 1;
        }
        match make() {
            Err(Errno::EXIST) => {
                let stat = self.existing(parent, place, member)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(refused(member, "would replace a directory of this layer by something else"));
                }
                fs::unlinkat(parent, &*place.name, AtFlags::empty()).map_err(failed(member, "replace"))?;
                if stat.st_nlink == 1 {
                    self.inodes -= 1;
                    self.disk_bytes = self.disk_bytes.saturating_sub(stat.st_blocks as u64 * 512);
                }
                make().map_err(failed(member, operation))
            }
            other => other.map_err(failed(member, operation)),
        }
    }

    fn existing(&self, parent: &OwnedFd, place: &Place, member: &Member) -> Result<fs::Stat, UnpackError> {
        fs::statat(parent, &*place.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(member, "stat"))
    }

    /// Owner, mode, attributes and times of what has no descriptor of its own (symlinks, devices, fifos).
    fn node_attributes(&self, parent: &OwnedFd, place: &Place, member: &Member) -> Result<(), UnpackError> {
        let (uid, gid) = owner(member)?;
        fs::chownat(parent, &*place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(member, "chown"))?;
        if member.kind != Kind::Symlink {
            // The umask took bits away from mknod's mode. The node was made just now, so no link is followed.
            fs::chmodat(parent, &*place.name, Mode::from_raw_mode(member.mode), AtFlags::empty())
                .map_err(failed(member, "chmod"))?;
        }
        if !member.xattrs.is_empty() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = fs::openat(parent, &*place.name, flags, Mode::empty()).map_err(failed(member, "open"))?;
            // An O_PATH descriptor takes no fsetxattr; its name in /proc does, if it is no symlink.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
            for (name, value) in wanted_xattrs(member) {
                match member.kind {
                    Kind::Symlink => {
                        let path = [
                            format!("/proc/self/fd/{}/", std::os::fd::AsRawFd::as_raw_fd(parent)).as_bytes(),
                            &place.name,
                        ]
                        .concat();
                        xattr_result(fs::lsetxattr(&*path, name, value, XattrFlags::empty()), name, member)?;
                    }
                    _ => xattr_result(fs::setxattr(&*path, name, value, XattrFlags::empty()), name, member)?,
                }
            }
        }
        fs::utimensat(parent, &*place.name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(member, "set times"))
    }

    fn finish(self) -> Result<SnapshotRecord, UnpackError> {
        for (path, time) in &self.directory_times {
            let failed = |errno| UnpackError::System { member: one_line(path), operation: "set times", errno };
            match resolve(self.root, path) {
                Ok(directory) => fs::futimens(&directory, &times(*time)).map_err(failed)?,
                // Replaced by a later member.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        let Self { disk_bytes: bytes, inodes, own_marks, implied, .. } = self;
        Ok(SnapshotRecord { bytes, inodes, own_marks, implied })
    }
}

fn write_sparse<R: Read>(
    file: &OwnedFd,
    map: &[(u64, u64)],
    member: &Member,
    stream: &mut TarStream<R>,
) -> Result<(), UnpackError> {
    let mut pieces = map.iter().copied();
    let (mut offset, mut length) = (0, 0);
    loop {
        let mut data = stream.data()?;
        if data.is_empty() {
            return Ok(());
        }
        while !data.is_empty() {
            while length == 0 {
                let Some(piece) = pieces.next() else {
                    return Err(refused(member, "sparse map ends before the data"));
                };
                (offset, length) = piece;
            }
            let taken = length.min(data.len() as u64);
            let (now, later) = data.split_at(taken as usize);
            write_all(file, now, Some(offset)).map_err(failed(member, "write"))?;
            data = later;
            offset += taken;
            length -= taken;
        }
    }
}

fn write_all(file: &OwnedFd, mut data: &[u8], mut at: Option<u64>) -> Result<(), Errno> {
    while !data.is_empty() {
        let written = match at {
            Some(offset) => rustix::io::pwrite(file, data, offset),
            None => rustix::io::write(file, data),
        };
        match written {
            Ok(count) => {
                data = &data[count..];
                at = at.map(|offset| offset + count as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn refused(member: &Member, problem: impl Into<String>) -> UnpackError {
    UnpackError::Refused { member: one_line(&member.path), problem: problem.into() }
}

/// Builds nothing until there is an error: this stands beside every system call.
fn failed<'a>(member: &'a Member, operation: &'static str) -> impl Fn(Errno) -> UnpackError + 'a {
    move |errno| UnpackError::System { member: one_line(&member.path), operation, errno }
}
