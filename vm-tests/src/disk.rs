//! A disk of a guest, whose power can be cut: what the guest wrote and did not flush is in the disk's cache, and a cut
//! loses any part of it, as on a real one.
//!
//! ```text
//! guest ─ virtio-blk ─ QEMU ─ NBD ─→ write ─→ view, cache        read  ←─ view
//!                                    flush ─→ cache → media
//!                                    cut   ─→ a part of the cache → media; view := media
//! ```
//!
//! Both are sparse files without a name: nothing is left on this machine, however the process ends.

use crate::cargo;
use crate::film::Film;
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all, in bytes: ext4 relies on that for the commit blocks of its journal, whose
/// checksums are over a whole block of this size.
pub(crate) const SECTOR: usize = 4096;

/// What becomes of the writes in the cache when the power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All were on their way, and arrive: as when QEMU alone is killed.
    Nothing,
    /// None arrives.
    Everything,
    /// Each sector on its own arrives or does not, whatever was written before or after it.
    Part,
}

/// A disk that outlives the guests that it is given to, one after the other.
#[derive(Debug)]
pub struct Disk {
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What a guest reads.
    view: File,
    /// What is there after a cut.
    media: File,
    /// Written since the last flush, in order.
    cache: Vec<(u64, Vec<u8>)>,
    cut: Cut,
    film: Option<Film>,
}

#[derive(Debug)]
enum Cut {
    Never,
    /// With the write that makes this zero.
    After {
        writes: u64,
        loss: Loss,
        random: Random,
    },
    Done,
}

impl Disk {
    /// A disk of this size with an ext4 file system, which keeps a journal.
    pub fn ext4(mebibytes: u32) -> Result<Self> {
        ensure!(mebibytes >= 16, "a disk of {mebibytes} MiB holds no ext4 with a journal: give 16 at least");
        let bytes = u64::from(mebibytes) << 20;
        let (view, media) = (nameless_file(bytes)?, nameless_file(bytes)?);
        let path = format!("/proc/{}/fd/{}", std::process::id(), media.as_raw_fd());
        // Without lazy work the guest does not go on formatting; the journal is small, so that making it is fast.
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "4096", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]);
        let output = mkfs.arg(&path).env("PATH", crate::guest::PATH).output();
        let output = output.context("run mkfs.ext4 of the package e2fsprogs")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mkfs.ext4: {}\n{}", output.status, errors.trim());
        copy_data(&media, &view, 0, bytes).context("copy the new file system")?;
        Ok(Self { bytes, state: Mutex::new(State { view, media, cache: Vec::new(), cut: Cut::Never, film: None }) })
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// Lets the power fail with the `writes`th write from now on; the guest that has the disk is killed then.
    pub fn cut_after(&self, writes: u64, loss: Loss, random: Random) {
        self.state().cut = Cut::After { writes: writes.max(1), loss, random };
    }

    /// Keeps all that is written from now on, until [`Disk::take_film`].
    pub fn record(&self) -> Result<()> {
        let mut state = self.state();
        state.film = Some(Film::new(&state.media, self.bytes)?);
        Ok(())
    }

    /// How many writes were kept so far.
    pub fn recorded(&self) -> usize {
        self.state().film.as_ref().map_or(0, Film::writes)
    }

    /// What was kept since [`Disk::record`].
    pub fn take_film(&self) -> Option<Film> {
        self.state().film.take()
    }

    /// The power failed since the guest was started.
    pub fn is_cut(&self) -> bool {
        matches!(self.state().cut, Cut::Done)
    }

    /// Checks the file system as it is on the media, without changing it: only its journal is to be replayed.
    pub fn check_file_system(&self) -> Result<()> {
        let state = self.state();
        let copy = nameless_file(self.bytes)?;
        copy_data(&state.media, &copy, 0, self.bytes).context("copy the disk")?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
        let run = |arguments: &[&str]| {
            Command::new("e2fsck").args(arguments).arg(&path).env("PATH", crate::guest::PATH).output()
        };
        // 1: the journal was replayed.
        let replayed = run(&["-E", "journal_only", "-y"]).context("run e2fsck of the package e2fsprogs")?;
        ensure!(matches!(replayed.status.code(), Some(0 | 1)), "replay the journal: {}", said(&replayed));
        let checked = run(&["-f", "-n"]).context("run e2fsck")?;
        ensure!(checked.status.success(), "the file system is damaged: {}", said(&checked));
        Ok(())
    }

    /// A guest is to start with it.
    pub(crate) fn power_on(&self) {
        let mut state = self.state();
        if matches!(state.cut, Cut::Done) {
            state.cut = Cut::Never;
        }
    }

    /// The guest is gone. What was on its way arrives, unless the power was cut.
    pub(crate) fn power_off(&self) -> io::Result<()> {
        self.flush()
    }

    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.state().view.read_exact_at(bytes, offset)
    }

    /// False if the power failed with this write: no answer is given any more.
    pub(crate) fn write(&self, offset: u64, bytes: Vec<u8>) -> io::Result<bool> {
        let mut state = self.state();
        if matches!(state.cut, Cut::Done) {
            return Ok(false);
        }
        state.view.write_all_at(&bytes, offset)?;
        if let Some(film) = &mut state.film {
            film.write(offset, &bytes);
        }
        state.cache.push((offset, bytes));
        if let Cut::After { writes, loss, random } = &mut state.cut {
            *writes -= 1;
            if *writes == 0 {
                let (loss, mut random) = (*loss, random.clone());
                state.lose(loss, &mut random)?;
                state.cut = Cut::Done;
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(film) = &mut state.film {
            film.flush();
        }
        for (offset, bytes) in std::mem::take(&mut state.cache) {
            state.media.write_all_at(&bytes, offset)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lose(&mut self, loss: Loss, random: &mut Random) -> io::Result<()> {
        let cache = std::mem::take(&mut self.cache);
        for (offset, bytes) in &cache {
            arrive(&self.media, *offset, bytes, loss, random)?;
        }
        for (offset, bytes) in &cache {
            let mut kept = vec![0; bytes.len()];
            self.media.read_exact_at(&mut kept, *offset)?;
            self.view.write_all_at(&kept, *offset)?;
        }
        Ok(())
    }
}

/// What becomes of a write that was not flushed.
pub(crate) fn arrive(media: &File, offset: u64, bytes: &[u8], loss: Loss, random: &mut Random) -> io::Result<()> {
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        let arrives = match loss {
            Loss::Nothing => true,
            Loss::Everything => false,
            Loss::Part => random.below(2) == 0,
        };
        if arrives {
            media.write_all_at(sector, offset + (index * SECTOR) as u64)?;
        }
    }
    Ok(())
}

pub(crate) fn nameless_file(bytes: u64) -> Result<File> {
    let directory = cargo::target_directory().join("vm");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&directory, flags, Mode::from_raw_mode(0o600))
        .with_context(|| format!("make a file without a name in {}", directory.display()))?;
    let file = File::from(file);
    file.set_len(bytes).context("set the size of a disk")?;
    Ok(file)
}

/// Copies what is not a hole.
pub(crate) fn copy_data(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    let mut buffer = vec![0; 1 << 20];
    while let Some(data) = seek_data(from, at)? {
        let hole = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(data))?.min(end);
        at = data;
        while at < hole {
            let length = (hole - at).min(buffer.len() as u64) as usize;
            from.read_exact_at(&mut buffer[..length], at)?;
            to.write_all_at(&buffer[..length], at)?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Where the next data begins; nothing if only a hole follows.
fn seek_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Err(rustix::io::Errno::NXIO) => Ok(None),
        other => Ok(other.map(Some)?),
    }
}

/// What a program said, for a person.
fn said(output: &std::process::Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_string();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let file = || nameless_file(1 << 20).expect("file");
        let state = State { view: file(), media: file(), cache: Vec::new(), cut: Cut::Never, film: None };
        Disk { bytes: 1 << 20, state: Mutex::new(state) }
    }

    fn first_bytes(disk: &Disk, count: usize) -> Vec<u8> {
        (0..count)
            .map(|sector| {
                let mut byte = [0];
                disk.read((sector * SECTOR) as u64, &mut byte).expect("read");
                byte[0]
            })
            .collect()
    }

    #[test]
    fn a_cut_loses_what_was_not_flushed() {
        let disk = disk();
        assert!(disk.write(0, vec![1; SECTOR]).expect("write"));
        disk.flush().expect("flush");
        disk.cut_after(2, Loss::Everything, Random::new(1));
        assert!(disk.write(0, vec![2; SECTOR]).expect("write"));
        assert_eq!(first_bytes(&disk, 1), [2], "a guest reads what it wrote");
        assert!(!disk.write(SECTOR as u64, vec![3; SECTOR]).expect("write") && disk.is_cut());
        assert_eq!(first_bytes(&disk, 2), [1, 0]);
        disk.power_on();
        assert!(disk.write(SECTOR as u64, vec![4; SECTOR]).expect("write") && !disk.is_cut());
    }

    #[test]
    fn a_cut_may_lose_an_earlier_write_and_keep_a_later_one() {
        let kept = |seed| {
            let disk = disk();
            disk.cut_after(1, Loss::Part, Random::new(seed));
            assert!(!disk.write(0, vec![1; 64 * SECTOR]).expect("write"));
            first_bytes(&disk, 64)
        };
        let kept = kept(7);
        assert!(kept.windows(2).any(|pair| pair == [0, 1]) && kept.windows(2).any(|pair| pair == [1, 0]), "{kept:?}");
    }

    #[test]
    fn a_kill_without_a_cut_loses_nothing() {
        let disk = disk();
        disk.write(0, vec![5; SECTOR]).expect("write");
        disk.power_off().expect("power off");
        disk.cut_after(1, Loss::Everything, Random::new(1));
        disk.write(SECTOR as u64, vec![6; SECTOR]).expect("write");
        assert_eq!(first_bytes(&disk, 2), [5, 0]);
    }

    #[test]
    fn a_new_disk_holds_a_sound_file_system() {
        let disk = Disk::ext4(32).expect("make");
        disk.check_file_system().expect("check");
        disk.write(1024, vec![0xff; 64 << 10]).expect("write");
        disk.flush().expect("flush");
        assert!(disk.check_file_system().is_err(), "a damaged one is found");
    }
}
