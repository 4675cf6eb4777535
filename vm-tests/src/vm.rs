//! One boot: QEMU from start to end, which is the command's exit, a panic, a reboot, a power cut, or the time limit.

use crate::disk::Disk;
use crate::nbd::Door;
use crate::qemu::{self, POLL, Qemu, own_descriptor};
use crate::{Hierarchy, Image, guest};
use anyhow::{Context, Result};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

const TAIL_LINES: usize = 60;

/// Programs with what debuggers want of them take a quarter of it, and the file system may take half.
pub const DEFAULT_MEMORY_MIB: u32 = 2048;

/// How a VM is run.
#[derive(Debug, Clone)]
pub struct Options {
    pub memory_mib: u32,
    /// Virtual processors.
    pub processors: u32,
    /// From the start of QEMU to the command's exit.
    pub timeout: Duration,
    /// QEMU's accelerator: `tcg` (emulation, everywhere) or `kvm`.
    pub accelerator: String,
    /// What systemd mounts; without systemd it is always the unified one.
    pub hierarchy: Hierarchy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_mib: DEFAULT_MEMORY_MIB,
            processors: 1,
            timeout: Duration::from_secs(300),
            accelerator: "tcg".into(),
            hierarchy: Hierarchy::default(),
        }
    }
}

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The command exited; 128 and the signal if one killed it.
    Exit(u8),
    /// The kernel panicked, or the init failed, which is a panic too.
    Panic,
    TimedOut,
    /// The guest rebooted or turned itself off; a VM is booted again by whoever wants that.
    Reboot,
    /// The power of the disk was cut, and QEMU killed.
    PowerCut,
    /// QEMU failed.
    Lost,
}

/// What is known of a VM that has ended.
#[derive(Debug)]
pub struct Ended {
    pub ending: Ending,
    /// What the kernel wrote to its console, and QEMU to its errors.
    pub console: String,
    pub duration: Duration,
}

impl Ended {
    fn new(ending: Ending, console: String, start: Instant) -> Self {
        let panicked = matches!(ending, Ending::Lost | Ending::Reboot) && console.contains("Kernel panic");
        Self { ending: if panicked { Ending::Panic } else { ending }, console, duration: start.elapsed() }
    }

    /// The last lines of the console.
    pub fn console_tail(&self) -> String {
        let lines: Vec<&str> = self.console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if tail.is_empty() { "(the console is empty)".into() } else { tail.join("\n") }
    }
}

/// A guest to boot, as often as wanted. From one boot to the next the disk remains, and nothing else.
pub struct Vm<'a> {
    image: &'a Image,
    options: &'a Options,
    disk: Option<&'a Disk>,
}

impl<'a> Vm<'a> {
    pub fn new(image: &'a Image, options: &'a Options) -> Self {
        Self { image, options, disk: None }
    }

    /// Gives it a disk. [`Image::disk`] says where the guest mounts it.
    pub fn with_disk(self, disk: &'a Disk) -> Self {
        Self { disk: Some(disk), ..self }
    }

    /// Boots, runs the image's command, and hands on what it writes as it comes. QEMU is gone when this returns, and
    /// dies with this process if that ends before.
    pub fn run(&self, output: &mut (dyn Write + Send), errors: &mut (dyn Write + Send)) -> Result<Ended> {
        let initramfs = self.image.pack()?;
        let start = Instant::now();
        let (output_reader, output_writer) = io::pipe()?;
        let (errors_reader, errors_writer) = io::pipe()?;
        let (exit_reader, exit_writer) = io::pipe()?;
        let (console_reader, console_writer) = io::pipe()?;
        let door = self.disk.map(|_| Door::open()).transpose().context("make a socket for the disk")?;
        let mut command = qemu::command(self.image, self.options, &initramfs, &console_writer, door.as_ref());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(console_writer.try_clone()?);
        for (name, writer) in [
            (guest::PORT_OUTPUT, &output_writer),
            (guest::PORT_ERRORS, &errors_writer),
            (guest::PORT_EXIT, &exit_writer),
        ] {
            command.arg("-chardev").arg(format!("file,id={name},path={}", own_descriptor(writer.as_raw_fd())));
            command.arg("-device").arg(format!("virtserialport,chardev={name},name={name}"));
        }
        let mut qemu = Qemu::start(&mut command)?;
        // The command holds a copy of the console's pipe, which would stay open with it.
        drop(command);
        thread::scope(|scope| {
            let served = self.serve(scope, door.as_ref(), qemu.id());
            let copies = [scope.spawn(|| copy(output_reader, output)), scope.spawn(|| copy(errors_reader, errors))];
            let console = scope.spawn(|| read_all(console_reader));
            let (sender, exit) = mpsc::channel();
            scope.spawn(move || sender.send(read_exit(exit_reader)));
            let waited = wait(&mut qemu, &exit, self.disk, start + self.options.timeout);
            // With QEMU and our copies of the write ends gone, every reader comes to its end.
            drop(qemu);
            drop((output_writer, errors_writer, exit_writer, console_writer));
            self.release(served, door.as_ref())?;
            let console = console.join().unwrap_or_default();
            for copied in copies {
                copied.join().map_err(|_| io::Error::other("a reader of the guest's output panicked"))??;
            }
            Ok(Ended::new(waited?, console, start))
        })
    }

    /// Boots with the command on this process' terminal, until it exits or the guest ends.
    pub fn interactive(&self) -> Result<Ended> {
        let initramfs = self.image.pack()?;
        let start = Instant::now();
        let (exit_reader, exit_writer) = io::pipe()?;
        let (console_reader, console_writer) = io::pipe()?;
        let door = self.disk.map(|_| Door::open()).transpose().context("make a socket for the disk")?;
        let mut command = qemu::command(self.image, self.options, &initramfs, &console_writer, door.as_ref());
        let exit_path = own_descriptor(exit_writer.as_raw_fd());
        command.args(["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]);
        command.arg("-chardev").arg(format!("file,id=exit,path={exit_path}"));
        command.arg("-device").arg(format!("virtserialport,chardev=exit,name={}", guest::PORT_EXIT));
        // QEMU says when it is asked to end; that is nothing for the terminal.
        command.stderr(console_writer.try_clone()?);
        let mut qemu = Qemu::start(&mut command)?;
        drop(command);
        thread::scope(|scope| {
            let served = self.serve(scope, door.as_ref(), qemu.id());
            let console = scope.spawn(|| read_all(console_reader));
            let (sender, exit) = mpsc::channel();
            scope.spawn(move || sender.send(read_exit(exit_reader)));
            let waited = wait(&mut qemu, &exit, self.disk, start + self.options.timeout);
            // Asked to end it gives the terminal its modes back, which it cannot when it is killed.
            qemu.terminate();
            drop(qemu);
            drop((exit_writer, console_writer));
            self.release(served, door.as_ref())?;
            let console = console.join().unwrap_or_default();
            Ok(Ended::new(waited?, console, start))
        })
    }

    /// Serves the disk to QEMU, if there is one.
    fn serve<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        door: Option<&'scope Door>,
        qemu: u32,
    ) -> Option<thread::ScopedJoinHandle<'scope, io::Result<()>>> {
        let (disk, door) = self.disk.zip(door)?;
        disk.power_on();
        Some(scope.spawn(move || door.serve(disk, qemu)))
    }

    /// QEMU is gone: so is its connection to the disk.
    fn release(&self, served: Option<thread::ScopedJoinHandle<'_, io::Result<()>>>, door: Option<&Door>) -> Result<()> {
        let Some(((served, door), disk)) = served.zip(door).zip(self.disk) else { return Ok(()) };
        door.close();
        let served = served.join().map_err(|_| io::Error::other("its server panicked"));
        served.flatten().context("serve the guest's disk")?;
        disk.power_off().context("write what was in the disk's cache")
    }
}

fn wait(qemu: &mut Qemu, exit: &Receiver<Option<u8>>, disk: Option<&Disk>, deadline: Instant) -> Result<Ending> {
    loop {
        match exit.recv_timeout(POLL) {
            Ok(Some(code)) => return Ok(Ending::Exit(code)),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Lost),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if disk.is_some_and(Disk::is_cut) {
            return Ok(Ending::PowerCut);
        }
        if let Some(status) = qemu.ended().context("wait for QEMU")? {
            let otherwise = if status.success() { Ending::Reboot } else { Ending::Lost };
            // The line may have come between the two looks.
            return Ok(exit.try_recv().ok().flatten().map_or(otherwise, Ending::Exit));
        }
        if Instant::now() >= deadline {
            return Ok(Ending::TimedOut);
        }
    }
}

/// The line that the init writes at the end.
fn read_exit(reader: PipeReader) -> Option<u8> {
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).ok()?;
    line.trim().parse().ok()
}

fn read_all(mut reader: PipeReader) -> String {
    let mut bytes = Vec::new();
    let _ = reader.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Hands on what comes, at once. When the receiver is gone the guest must still not block: the rest is dropped.
fn copy(mut reader: PipeReader, writer: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut failure = None;
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            return failure.map_or(Ok(()), Err);
        }
        if failure.is_none() {
            failure = writer.write_all(&buffer[..length]).and_then(|()| writer.flush()).err();
        }
    }
}
