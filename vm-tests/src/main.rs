//! `cargo run -p vm-tests -- run -- COMMAND`: a command in a throwaway VM.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use vm_tests::lock::Lock;
use vm_tests::vm::{DEFAULT_MEMORY_MIB, Ended};
use vm_tests::{Disk, Ending, Hierarchy, Image, Kernel, Options, Vm, cargo, debian, kernel};

/// As timeout(1).
const EXIT_TIMED_OUT: u8 = 124;
/// The VM failed, not the command.
const EXIT_VM: u8 = 125;
/// What survives a reboot, of a node with its default configuration.
const DATA: &str = "/var/lib/wharf";

/// Runs a command in a VM that is thrown away: Debian's kernel under QEMU, pure cgroup v2, and the programs of Wharf.
#[derive(Parser)]
#[command(name = "vm-tests", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run COMMAND as root, show its output as it comes, exit with its code (124: time limit, 125: the VM failed)
    Run {
        #[command(flatten)]
        machine: Machine,
        /// Seconds from the start of QEMU until everything is ended
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Make what guests consist of, as far as it is missing: the programs, the pinned kernels, the root file system
    Build,
    /// Pin the kernels and the root file system that Debian has now, in vm-tests/packages.lock
    Lock,
    /// Open a shell on this terminal; leaving it ends the VM
    Shell {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Args)]
struct Machine {
    /// A kernel of vm-tests/packages.lock (6.1, 6.12), or Debian's package of another
    #[arg(long, default_value = kernel::DEFAULT, value_name = "KERNEL")]
    kernel: String,
    /// Boot Debian with systemd as process 1
    #[arg(long)]
    systemd: bool,
    /// Run in a login session of this user, for whom systemd runs a manager and a bus; `wharf` is there
    #[arg(long, value_name = "NAME", requires = "systemd")]
    user: Option<String>,
    /// Install this package of Debian too
    #[arg(long, value_name = "NAME", requires = "systemd")]
    package: Vec<String>,
    /// The cgroup hierarchies that systemd mounts: v2, hybrid, v1
    #[arg(long, default_value = "v2", value_parser = ["v2", "hybrid", "v1"], value_name = "KIND", requires = "systemd")]
    cgroup: String,
    /// Give it a disk of so many MiB, with a journalled file system, mounted on /var/lib/wharf
    #[arg(long, value_name = "MIB")]
    disk: Option<u32>,
    /// Virtual processors; emulated ones take turns on one of this machine's
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16), value_name = "COUNT")]
    cpus: u32,
    /// Memory in MiB, 2048 if not given
    #[arg(long, value_name = "MIB")]
    mem: Option<u32>,
    /// QEMU's accelerator: tcg emulates and works everywhere, kvm needs a /dev/kvm that boots a stock kernel
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Put a file of this machine into the guest, as HOSTFILE:GUESTPATH
    #[arg(long, value_name = "HOSTFILE:GUESTPATH", value_parser = parse_addition)]
    add: Vec<(PathBuf, String)>,
    /// Put a program of this machine into the guest, with its libraries
    #[arg(long, value_name = "NAME")]
    with: Vec<String>,
}

fn parse_addition(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok((host.into(), guest.into())),
        _ => Err("expected HOSTFILE:/GUEST/PATH".into()),
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().action {
        Action::Run { machine, timeout, command } => run(&machine, Duration::from_secs(timeout), &command),
        Action::Build => build().map(|()| 0),
        Action::Lock => lock().map(|()| 0),
        Action::Shell { machine } => shell(&machine),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vm-tests: {error:#}");
            ExitCode::from(EXIT_VM)
        }
    }
}

fn run(machine: &Machine, timeout: Duration, command: &[String]) -> Result<u8> {
    let (mut image, mut options) = prepare(machine)?;
    options.timeout = timeout;
    image.command(command)?;
    let disk = disk(machine, &mut image)?;
    let ended = vm(&image, &options, disk.as_ref()).run(&mut io::stdout(), &mut io::stderr())?;
    Ok(report(&ended, timeout))
}

fn shell(machine: &Machine) -> Result<u8> {
    /// A shell is left by the person in it; this is only so that a forgotten one ends.
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (mut image, mut options) = prepare(machine)?;
    options.timeout = DAY;
    let size = rustix::termios::tcgetwinsize(io::stdin()).context("a shell needs a terminal")?;
    image.terminal(size.ws_row, size.ws_col)?;
    image.command(&["sh".into(), "-l".into()])?;
    let disk = disk(machine, &mut image)?;
    Ok(report(&vm(&image, &options, disk.as_ref()).interactive()?, DAY))
}

fn build() -> Result<()> {
    eprintln!("vm-tests: building the programs");
    cargo::programs()?;
    for pinned in Lock::built_in()?.kernels {
        println!("{}", Kernel::named(&pinned.name)?.image.display());
    }
    println!("{}", debian::archive(&[])?.display());
    Ok(())
}

fn lock() -> Result<()> {
    let file = cargo::workspace().join("vm-tests/packages.lock");
    let work = cargo::target_directory().join("vm").join(format!("lock-{}", std::process::id()));
    let made = Lock::newest_kernels(&work).and_then(|mut lock| {
        lock.roots.push((debian::SUITE.into(), debian::newest(&work)?));
        Ok(lock)
    });
    let _ = fs::remove_dir_all(&work);
    fs::write(&file, made?.to_text()).with_context(|| format!("write {}", file.display()))
}

fn disk(machine: &Machine, image: &mut Image) -> Result<Option<Disk>> {
    let disk = machine.disk.map(Disk::ext4).transpose()?;
    if disk.is_some() {
        image.disk(DATA)?;
    }
    Ok(disk)
}

fn vm<'a>(image: &'a Image, options: &'a Options, disk: Option<&'a Disk>) -> Vm<'a> {
    let vm = Vm::new(image, options);
    match disk {
        Some(disk) => vm.with_disk(disk),
        None => vm,
    }
}

/// Makes what is missing: the programs, the kernel, the image.
fn prepare(machine: &Machine) -> Result<(Image, Options)> {
    eprintln!("vm-tests: building the programs");
    let programs = cargo::programs()?;
    let kernel = Kernel::named(&machine.kernel)?;
    eprintln!("vm-tests: booting {}", kernel.release);
    let mut image = if machine.systemd {
        let archive = debian::archive(&machine.package)?;
        Image::debian(kernel, &programs.init, archive, machine.user.as_deref())?
    } else {
        Image::new(kernel, &programs.init)?
    };
    image.programs(&programs)?;
    for (host, guest) in &machine.add {
        image.file(host, guest)?;
    }
    for name in &machine.with {
        image.host_program(name)?;
    }
    let hierarchy = match machine.cgroup.as_str() {
        "hybrid" => Hierarchy::Hybrid,
        "v1" => Hierarchy::Legacy,
        _ => Hierarchy::Unified,
    };
    let memory_mib = machine.mem.unwrap_or(DEFAULT_MEMORY_MIB);
    let processors = machine.cpus;
    let options =
        Options { memory_mib, processors, accelerator: machine.accel.clone(), hierarchy, ..Options::default() };
    Ok((image, options))
}

fn report(ended: &Ended, timeout: Duration) -> u8 {
    let (reason, code) = match ended.ending {
        Ending::Exit(code) => return code,
        Ending::TimedOut => (format!("time limit of {} s reached", timeout.as_secs()), EXIT_TIMED_OUT),
        Ending::Panic => ("the guest's kernel panicked".into(), EXIT_VM),
        Ending::Reboot => ("the guest rebooted or turned itself off".into(), EXIT_VM),
        Ending::PowerCut => ("the power was cut".into(), EXIT_VM),
        Ending::Lost => ("the VM ended without an exit code".into(), EXIT_VM),
    };
    eprintln!("{}\nvm-tests: {reason}; above is the end of its console", ended.console_tail());
    code
}
