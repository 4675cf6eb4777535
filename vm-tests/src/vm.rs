//! One boot: QEMU from start to end, which is the command's exit, a panic, or the time limit.

use crate::{Hierarchy, Image, guest};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// No AVX: QEMU 7.2's emulation of it breaks Go programs. RDRAND, so that the guest need not wait for entropy.
const CPU: &str = "Westmere,+rdrand";
/// `panic=-1` with QEMU's `-no-reboot` makes a panic the end of the VM.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr random.trust_cpu=on";
/// How often QEMU is looked after while nothing is heard of the command.
const POLL: Duration = Duration::from_millis(50);
const TAIL_LINES: usize = 60;

/// How a VM is run.
#[derive(Debug, Clone)]
pub struct Options {
    pub memory_mib: u32,
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
            memory_mib: 1024,
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
    /// QEMU ended otherwise.
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
        let panicked = ending == Ending::Lost && console.contains("Kernel panic");
        Self { ending: if panicked { Ending::Panic } else { ending }, console, duration: start.elapsed() }
    }

    /// The last lines of the console.
    pub fn console_tail(&self) -> String {
        let lines: Vec<&str> = self.console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if tail.is_empty() { "(the console is empty)".into() } else { tail.join("\n") }
    }
}

/// A guest to boot.
pub struct Vm<'a> {
    image: &'a Image,
    options: &'a Options,
}

impl<'a> Vm<'a> {
    pub fn new(image: &'a Image, options: &'a Options) -> Self {
        Self { image, options }
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
        let mut command = self.base(&initramfs, &console_writer);
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
            let copies = [scope.spawn(|| copy(output_reader, output)), scope.spawn(|| copy(errors_reader, errors))];
            let console = scope.spawn(|| read_all(console_reader));
            let (sender, exit) = mpsc::channel();
            scope.spawn(move || sender.send(read_exit(exit_reader)));
            let waited = wait(&mut qemu, &exit, start + self.options.timeout);
            // With QEMU and our copies of the write ends gone, every reader comes to its end.
            drop(qemu);
            drop((output_writer, errors_writer, exit_writer, console_writer));
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
        let mut command = self.base(&initramfs, &console_writer);
        let exit_path = own_descriptor(exit_writer.as_raw_fd());
        command.args(["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]);
        command.arg("-chardev").arg(format!("file,id=exit,path={exit_path}"));
        command.arg("-device").arg(format!("virtserialport,chardev=exit,name={}", guest::PORT_EXIT));
        // QEMU says when it is asked to end; that is nothing for the terminal.
        command.stderr(console_writer.try_clone()?);
        let mut qemu = Qemu::start(&mut command)?;
        drop(command);
        thread::scope(|scope| {
            let console = scope.spawn(|| read_all(console_reader));
            let (sender, exit) = mpsc::channel();
            scope.spawn(move || sender.send(read_exit(exit_reader)));
            let waited = wait(&mut qemu, &exit, start + self.options.timeout);
            // Asked to end it gives the terminal its modes back, which it cannot when it is killed.
            qemu.terminate();
            drop(qemu);
            drop((exit_writer, console_writer));
            let console = console.join().unwrap_or_default();
            Ok(Ended::new(waited?, console, start))
        })
    }

    /// QEMU with kernel, initramfs, console and the bus for the ports.
    fn base(&self, initramfs: &File, console: &PipeWriter) -> Command {
        // Whatever happens to this process, QEMU is killed with it: util-linux' setpriv says so to the kernel.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-machine", &format!("q35,accel={}", self.options.accelerator)]);
        let cpu = if self.options.accelerator == "tcg" { CPU } else { "host" };
        // QEMU 7.2's emulation of two processors makes a guest oops now and then.
        command.args(["-cpu", cpu, "-smp", "1", "-m", &self.options.memory_mib.to_string()]);
        command.arg("-kernel").arg(&self.image.kernel().image);
        command.arg("-initrd").arg(own_descriptor(initramfs.as_raw_fd()));
        command.args(["-append", &format!("{KERNEL_ARGUMENTS} {}", self.options.hierarchy.kernel_arguments())]);
        command.arg("-chardev").arg(format!("file,id=console,path={}", own_descriptor(console.as_raw_fd())));
        command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
        command
    }
}

/// A descriptor of this process as a path, for QEMU to open: no temporary files, and nothing to inherit.
fn own_descriptor(descriptor: RawFd) -> String {
    format!("/proc/{}/fd/{descriptor}", std::process::id())
}

/// A QEMU that is killed when this goes out of scope.
struct Qemu(Child);

impl Qemu {
    fn start(command: &mut Command) -> Result<Self> {
        if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join(QEMU).exists()) {
            bail!("{QEMU} is not installed: run `scripts/install vm`");
        }
        command.spawn().map(Self).context("run setpriv, of util-linux")
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Asks it to end, and gives it a second.
    fn terminate(&mut self) {
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

fn wait(qemu: &mut Qemu, exit: &Receiver<Option<u8>>, deadline: Instant) -> Result<Ending> {
    loop {
        match exit.recv_timeout(POLL) {
            Ok(Some(code)) => return Ok(Ending::Exit(code)),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Lost),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if qemu.ended().context("wait for QEMU")?.is_some() {
            // The line may have come between the two looks.
            return Ok(exit.try_recv().ok().flatten().map_or(Ending::Lost, Ending::Exit));
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
