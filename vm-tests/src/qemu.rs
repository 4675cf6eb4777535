//! QEMU: its command line, and its process, which never outlives the one that started it.

use crate::disk::SECTOR;
use crate::nbd::Door;
use crate::{Image, Options};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// No AVX: QEMU 7.2's emulation of it breaks Go programs. RDRAND, so that the guest need not wait for entropy.
const CPU: &str = "Westmere,+rdrand";
/// `panic=-1` with QEMU's `-no-reboot` makes a panic the end of the VM. The self-tests of the kernel's ciphers oops now
/// and then where they are emulated (6.12).
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests";
/// How often QEMU is looked after while nothing is heard of the command.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// QEMU with kernel, initramfs, console, the bus for the ports, and the disk behind the door.
pub(crate) fn command(
    image: &Image,
    options: &Options,
    initramfs: &File,
    console: &PipeWriter,
    disk: Option<&Door>,
) -> Command {
    // Whatever happens to this process, QEMU is killed with it: util-linux' setpriv says so to the kernel.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "q35", "-accel"]);
    // QEMU 7.2's emulation of processors in threads of their own makes a guest oops now and then: they take turns.
    command.arg(if options.accelerator == "tcg" { "tcg,thread=single" } else { &options.accelerator });
    let cpu = if options.accelerator == "tcg" { CPU } else { "host" };
    command.args(["-cpu", cpu, "-smp", &options.processors.to_string(), "-m", &options.memory_mib.to_string()]);
    command.arg("-kernel").arg(&image.kernel().image);
    command.arg("-initrd").arg(own_descriptor(initramfs.as_raw_fd()));
    command.args(["-append", &format!("{KERNEL_ARGUMENTS} {}", options.hierarchy.kernel_arguments())]);
    command.arg("-chardev").arg(format!("file,id=console,path={}", own_descriptor(console.as_raw_fd())));
    command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
    if let Some(door) = disk {
        let server = format!("server.type=unix,server.path={},server.abstract=on", door.name);
        command.args(["-blockdev", &format!("driver=nbd,node-name=disk,{server}")]);
        // A cache that the guest knows of: it flushes what must last.
        let sizes = format!("logical_block_size={SECTOR},physical_block_size={SECTOR}");
        command.args(["-device", &format!("virtio-blk-pci,drive=disk,write-cache=on,{sizes}")]);
    }
    command
}

/// A descriptor of this process as a path, for QEMU to open: no temporary files, and nothing to inherit.
pub(crate) fn own_descriptor(descriptor: RawFd) -> String {
    format!("/proc/{}/fd/{descriptor}", std::process::id())
}

/// A QEMU that is killed when this goes out of scope.
pub(crate) struct Qemu(Child);

impl Qemu {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join(QEMU).exists()) {
            bail!("{QEMU} is not installed: run `scripts/install vm`");
        }
        command.spawn().map(Self).context("run setpriv, of util-linux")
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Asks it to end, and gives it a second.
    pub(crate) fn terminate(&mut self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) else { return };
        // It is a child that was not waited for, so the pid is still its own.
        if matches!(self.ended(), Ok(None)) && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
        {
            let limit = Instant::now() + Duration::from_secs(1);
            while matches!(self.ended(), Ok(None)) && Instant::now() < limit {
                thread::sleep(POLL);
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
