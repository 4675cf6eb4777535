//! What a guest consists of: a kernel, and the files of its initramfs.

use crate::cargo::Programs;
use crate::{cpio, guest, host_program, kernel::Kernel, modules, systemd};
use anyhow::{Context, Result, ensure};
use rustix::fs::MemfdFlags;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's package busybox-static: the guest's shell and tools.
const BUSYBOX: &str = "/bin/busybox";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

#[derive(Debug)]
enum Entry {
    Directory { permissions: u32 },
    Link(String),
    Data { content: Vec<u8>, permissions: u32 },
    HostFile { path: PathBuf, permissions: u32 },
}

/// A guest in the making. Directories above an entry are made as needed.
#[derive(Debug)]
pub struct Image {
    kernel: Kernel,
    /// An archive that is unpacked before the entries.
    base: Option<PathBuf>,
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// Busybox with its applets, the kernel's modules, and the init; no command yet.
    pub fn new(kernel: Kernel, init: &Path) -> Result<Self> {
        let mut image = Self { kernel, base: None, entries: BTreeMap::new() };
        for directory in ["/dev", "/etc", "/proc", "/run", "/sys", "/usr/bin", "/usr/sbin", "/usr/lib", guest::NEW_ROOT]
        {
            image.directory(directory, 0o755);
        }
        for directory in ["/usr/lib64", "/usr/local/bin", "/var/lib", "/var/log", "/mnt"] {
            image.directory(directory, 0o755);
        }
        image.directory("/root", 0o700);
        image.directory("/tmp", 0o1777);
        image.directory("/var/tmp", 0o1777);
        // As Debian: /usr is merged.
        for name in ["bin", "sbin", "lib", "lib64"] {
            image.link(&format!("/{name}"), &format!("usr/{name}"))?;
        }
        image.data("/etc/passwd", PASSWD)?;
        image.data("/etc/group", GROUP)?;
        image.data("/etc/hosts", HOSTS)?;
        image.data("/etc/hostname", "wharf-vm\n")?;
        image.link("/etc/mtab", "/proc/self/mounts")?;
        image.file(init, "/init")?;
        image.busybox()?;
        image.modules()?;
        Ok(image)
    }

    /// A Debian root file system ([`crate::debian::archive`]) with systemd as process 1. The command is a service of
    /// it, or runs in a login session of `user`.
    pub fn debian(kernel: Kernel, init: &Path, archive: PathBuf, user: Option<&str>) -> Result<Self> {
        let mut image = Self { kernel, base: Some(archive), entries: BTreeMap::new() };
        image.directory(guest::NEW_ROOT, 0o755);
        image.data("/etc/hosts", HOSTS)?;
        image.data("/etc/hostname", "wharf-vm\n")?;
        image.file(init, "/init")?;
        image.modules()?;
        // kmod's reads binary indices only, which its depmod would have to make.
        image.link("/usr/sbin/modprobe", "../bin/busybox")?;
        systemd::configure(&mut image, user)?;
        Ok(image)
    }

    /// The programs of Wharf on the guest's PATH.
    pub fn programs(&mut self, programs: &Programs) -> Result<()> {
        for program in &programs.programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            self.file(program, &format!("/usr/local/bin/{name}"))?;
        }
        Ok(())
    }

    /// A file of this machine, read when the image is packed, with its permissions.
    pub fn file(&mut self, host: &Path, path: &str) -> Result<()> {
        let metadata = fs::metadata(host).with_context(|| format!("add {}", host.display()))?;
        ensure!(metadata.is_file(), "add {}: not a file", host.display());
        let permissions = metadata.permissions().mode() & 0o7777;
        self.insert(path, Entry::HostFile { path: host.to_path_buf(), permissions })
    }

    /// A file with this content, mode 0644.
    pub fn data(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.insert(path, Entry::Data { content: content.into(), permissions: 0o644 })
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Entry::Link(target.to_string()))
    }

    /// A program of this machine with its libraries, at the paths they have here. It replaces busybox' applet.
    pub fn host_program(&mut self, name: &str) -> Result<()> {
        let program = host_program::find(name)?;
        self.file(&program, &format!("/usr/bin/{name}"))?;
        for library in host_program::libraries(&program)? {
            self.file(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }

    /// What the guest runs.
    pub fn command(&mut self, arguments: &[String]) -> Result<()> {
        ensure!(!arguments.is_empty(), "a guest needs a command");
        ensure!(arguments.iter().all(|argument| !argument.contains('\0')), "an argument contains a NUL byte");
        let content: String = arguments.iter().map(|argument| format!("{argument}\0")).collect();
        self.data(guest::COMMAND, content)
    }

    /// Mounts the disk of the VM on this directory before anything else runs.
    pub fn disk(&mut self, directory: &str) -> Result<()> {
        ensure!(directory.starts_with('/'), "the mount point {directory:?} is no absolute path");
        self.data(guest::DISK, directory)
    }

    /// Gives the command a terminal of this size.
    pub fn terminal(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.data(guest::TERMINAL, format!("{rows} {columns}\n"))
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The initramfs, in memory: nothing is left on disk, however this process ends.
    pub fn pack(&self) -> Result<File> {
        let memory =
            rustix::fs::memfd_create("wharf-vm-initramfs", MemfdFlags::CLOEXEC).context("make a memory file")?;
        let mut memory = File::from(memory);
        if let Some(base) = &self.base {
            let mut archive = File::open(base).with_context(|| format!("open {}", base.display()))?;
            std::io::copy(&mut archive, &mut memory).with_context(|| format!("pack {}", base.display()))?;
        }
        let mut writer = cpio::Writer::new(BufWriter::with_capacity(1 << 20, memory));
        let mut made = BTreeSet::new();
        for (path, entry) in &self.entries {
            parents(path, &mut |parent| {
                let present = self.entries.contains_key(parent);
                if present || !made.insert(parent.to_string()) { Ok(()) } else { writer.directory(parent, 0o755) }
            })?;
            write_entry(&mut writer, path, entry).with_context(|| format!("pack {path}"))?;
        }
        let mut file = writer.finish()?.into_inner().context("pack the initramfs")?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    fn directory(&mut self, path: &str, permissions: u32) {
        self.entries.insert(path.to_string(), Entry::Directory { permissions });
    }

    fn insert(&mut self, path: &str, entry: Entry) -> Result<()> {
        ensure!(path.starts_with('/') && !path.ends_with('/'), "{path:?} is no absolute path of a file in the guest");
        ensure!(path.split('/').all(|part| part != ".."), "{path:?} contains `..`");
        // /bin and its like are links; an archive must name what is behind them.
        let real = ["/bin/", "/sbin/", "/lib/", "/lib64/"].iter().any(|link| path.starts_with(link));
        self.entries.insert(if real { format!("/usr{path}") } else { path.to_string() }, entry);
        Ok(())
    }

    fn busybox(&mut self) -> Result<()> {
        let output = Command::new(BUSYBOX).arg("--list").output();
        let output = output.with_context(|| format!("run {BUSYBOX} of the package busybox-static"))?;
        self.file(Path::new(BUSYBOX), "/usr/bin/busybox")?;
        let list = String::from_utf8_lossy(&output.stdout);
        for applet in list.lines().filter(|name| !matches!(*name, "busybox" | "init" | "linuxrc")) {
            self.link(&format!("/usr/bin/{applet}"), "busybox")?;
        }
        // The kernel asks this very path for modules.
        self.link("/usr/sbin/modprobe", "../bin/busybox")
    }

    fn modules(&mut self) -> Result<()> {
        let wanted: Vec<&str> = modules::BOOT.iter().chain(&modules::ON_DEMAND).copied().collect();
        let selection = self.kernel.select(&wanted)?;
        let guest_directory = format!("/usr/lib/modules/{}", self.kernel.release);
        for file in selection.files() {
            self.file(&self.kernel.modules.join(file), &format!("{guest_directory}/{}", file.display()))?;
        }
        let boot = selection.load_order(&modules::BOOT);
        let boot: String = boot.iter().map(|file| format!("{guest_directory}/{}\n", file.display())).collect();
        self.data(guest::BOOT_MODULES, boot)?;
        self.data(&format!("{guest_directory}/modules.dep"), selection.dependency_index())?;
        self.data(&format!("{guest_directory}/modules.alias"), selection.alias_index())
    }
}

fn parents(path: &str, visit: &mut dyn FnMut(&str) -> std::io::Result<()>) -> std::io::Result<()> {
    path.match_indices('/').filter(|(at, _)| *at > 0).try_for_each(|(at, _)| visit(&path[..at]))
}

fn write_entry(writer: &mut cpio::Writer<BufWriter<File>>, path: &str, entry: &Entry) -> std::io::Result<()> {
    match entry {
        Entry::Directory { permissions } => writer.directory(path, *permissions),
        Entry::Link(target) => writer.link(path, target),
        Entry::Data { content, permissions } => {
            writer.file(path, *permissions, content.len() as u64, &mut content.as_slice())
        }
        Entry::HostFile { path: host, permissions } => {
            let mut file = File::open(host)?;
            writer.file(path, *permissions, file.metadata()?.len(), &mut file)
        }
    }
}
