//! `linux.seccomp` (runtime-spec, config-linux.md#seccomp): checked with the plan, compiled by libseccomp,
//! cached by the hash of the profile, loaded by the child as a plain array of instructions.
//!
//! System calls newer than every one the profile names get ENOSYS instead of the profile's default, as runc
//! has it: a C library takes ENOSYS as "too old a kernel" and falls back, where EPERM would break it.

use crate::plan::Refusal;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use wharf_specs::oci::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use wharf_sys::seccomp::{self as kernel, Instruction};

/// Changes when the same profile would compile to something else.
const CACHE_VERSION: &str = "1";
/// Filters in a cache; others are compiled each time. A node has few profiles, unless somebody makes up new ones.
const MOST_FILTERS: usize = 256;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Flags a profile may have.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Architectures a profile may have.
pub const ARCHITECTURES: [&str; 19] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Why a checked profile could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("compile seccomp profile: {operation}")]
    Library { operation: String, source: libseccomp::error::SeccompError },
    #[error("export seccomp profile")]
    Export(#[source] io::Error),
}

/// A profile that passed the checks.
#[derive(Debug, Clone, Copy)]
pub struct FilterSource<'a> {
    profile: &'a LinuxSeccomp,
    /// Flags of `seccomp(2)`.
    pub flags: u64,
}

impl<'a> FilterSource<'a> {
    /// Checks a profile.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn compile(profile: &'a LinuxSeccomp) -> Result<Self, Refusal> {
        let field = |name: &str| format!("linux.seccomp.{name}");
        let mut flags = 0;
        for flag in profile.flags().iter().flatten() {
            flags |= match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => kernel::SECCOMP_FILTER_FLAG_LOG,
                // The child has one thread, so there is nothing to synchronise.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => kernel::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    kernel::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                }
            };
        }
        if profile.flags().is_none() {
            flags |= kernel::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        }
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(Refusal::new(
                field("defaultAction"),
                "\"SCMP_ACT_NOTIFY\" is not allowed as default: nobody would answer for the answering",
            ));
        }
        check_errno(profile.default_errno_ret(), &field("defaultErrnoRet"))?;
        let mut notifies = false;
        for (index, syscall) in profile.syscalls().iter().flatten().enumerate() {
            check_errno(syscall.errno_ret(), &format!("linux.seccomp.syscalls[{index}].errnoRet"))?;
            if syscall.action() == LinuxSeccompAction::ScmpActNotify {
                notifies = true;
                if syscall.names().iter().any(|name| name == "write") {
                    let problem =
                        "SCMP_ACT_NOTIFY cannot be used for the write syscall: the runtime needs it for the listener";
                    return Err(Refusal::new(format!("linux.seccomp.syscalls[{index}].names"), problem));
                }
            }
            for (position, argument) in syscall.args().iter().flatten().enumerate() {
                if argument.index() > 5 {
                    let problem = format!("{} is not an argument; allowed: 0 to 5", argument.index());
                    return Err(Refusal::new(
                        format!("linux.seccomp.syscalls[{index}].args[{position}].index"),
                        problem,
                    ));
                }
            }
        }
        if notifies {
            if profile.listener_path().is_none() {
                return Err(Refusal::new(field("listenerPath"), "is missing, but a rule has SCMP_ACT_NOTIFY"));
            }
            flags |= kernel::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        } else if flags & kernel::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 {
            // The kernel refuses the flag without a listener; without one it has no meaning.
            flags &= !kernel::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        }
        Ok(Self { profile, flags })
    }

    /// The program for the kernel, from `cache` if it was compiled before. A cache that cannot be read or
    /// written only costs time.
    pub fn program(&self, cache: Option<&Path>) -> Result<Vec<Instruction>, Error> {
        let Some(cache) = cache else { return self.build() };
        let mut hash = Sha256::new();
        hash.update(CACHE_VERSION);
        hash.update(serde_json::to_vec(self.profile).unwrap_or_default());
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = cache.join(name);
        if let Ok(bytes) = fs::read(&path)
            && !bytes.is_empty()
            && bytes.len().is_multiple_of(Instruction::BYTES)
        {
            return Ok(Instruction::program(&bytes));
        }
        let program = self.build()?;
        // Written whole or not at all: a reader must never see half a filter.
        let _ = store(cache, &path, &program);
        Ok(program)
    }

    fn build(&self) -> Result<Vec<Instruction>, Error> {
        let default = action(self.profile.default_action(), self.profile.default_errno_ret());
        let mut filter = ScmpFilterContext::new(default).map_err(library("make filter"))?;
        filter.set_ctl_nnp(false).map_err(library("leave no_new_privs alone"))?;
        // A binary tree over the numbers; older libraries know only the list, which is right as well.
        let _ = filter.set_ctl_optimize(2);
        let mut architectures: Vec<ScmpArch> =
            self.profile.architectures().iter().flatten().filter_map(|arch| architecture(*arch)).collect();
        for arch in &architectures {
            filter.add_arch(*arch).map_err(library("add architecture"))?;
        }
        architectures.push(ScmpArch::native());
        let mut newest = architectures.iter().map(|arch| (*arch, 0)).collect::<Vec<_>>();
        for rule in self.profile.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret());
            for name in rule.names() {
                for (arch, newest) in &mut newest {
                    if let Ok(number) = ScmpSyscall::from_name_by_arch(name, *arch) {
                        *newest = (*newest).max(number.as_raw_syscall());
                    }
                }
                // Names this libseccomp does not know are passed over, as runc does; a rule that repeats the
                // default is refused by the library and has no effect anyway.
                let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
                if action != default {
                    add_rule(&mut filter, action, syscall, rule.args().as_deref().unwrap_or_default())
                        .map_err(library(name))?;
                }
            }
        }
        let mut file = fs::File::from(wharf_sys::fs::memfd(c"seccomp").map_err(Error::Export)?);
        filter.export_bpf(&file).map_err(library("export"))?;
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(Error::Export)?;
        let mut program = Vec::new();
        if matches!(default, ScmpAction::Errno(_) | ScmpAction::KillProcess | ScmpAction::KillThread | ScmpAction::Trap)
        {
            program = unknown_calls(&newest);
        }
        program.extend(Instruction::program(&bytes));
        Ok(program)
    }
}

/// Version of the libseccomp that is linked in.
pub fn library_version() -> Option<String> {
    libseccomp::ScmpVersion::current().ok().map(|version| version.to_string())
}

fn check_errno(value: Option<u32>, field: &str) -> Result<(), Refusal> {
    const MAX_ERRNO: u32 = 4095;
    match value {
        Some(value) if value > MAX_ERRNO => {
            Err(Refusal::new(field, format!("{value} is out of range; allowed: 0 to {MAX_ERRNO}")))
        }
        _ => Ok(()),
    }
}

fn library(operation: &str) -> impl FnOnce(libseccomp::error::SeccompError) -> Error {
    let operation = operation.to_string();
    move |source| Error::Library { operation, source }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let value = errno.unwrap_or(EPERM);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(value as i32),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

/// `None` for an architecture that this libseccomp does not know and that therefore cannot run here.
fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 | Arch::ScmpArchM68k | Arch::ScmpArchSh | Arch::ScmpArchSheb => return None,
    })
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    arguments: &[LinuxSeccompArg],
) -> Result<(), libseccomp::error::SeccompError> {
    let compares: Vec<ScmpArgCompare> = arguments.iter().map(compare).collect();
    let repeated = arguments.iter().enumerate().any(|(at, a)| arguments[..at].iter().any(|b| b.index() == a.index()));
    if compares.is_empty() {
        filter.add_rule(action, syscall)?;
    } else if repeated {
        // Two conditions on one argument cannot both be in a rule; runc and docker read them as "or".
        for compare in compares {
            filter.add_rule_conditional(action, syscall, &[compare])?;
        }
    } else {
        filter.add_rule_conditional(action, syscall, &compares)?;
    }
    Ok(())
}

fn compare(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
        // The standard's `value` is the mask here and `valueTwo` what must remain.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(argument.value()), argument.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(argument.index() as u32, operator, datum)
}

/// Instructions that answer ENOSYS to every call newer than the newest that the profile names, per
/// architecture, and otherwise fall through to what follows.
fn unknown_calls(newest: &[(ScmpArch, i32)]) -> Vec<Instruction> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const NUMBER_OFFSET: u32 = 0;
    const ARCHITECTURE_OFFSET: u32 = 4;
    const RETURN_ERRNO: u32 = 0x0005_0000;
    /// Calls of the x32 ABI have this bit; they are not newer, only different.
    const X32_BIT: u32 = 0x4000_0000;
    let op = |code, value, jump_true, jump_false| Instruction { code, jump_true, jump_false, value };
    let mut program = Vec::new();
    let mut seen = Vec::new();
    for (arch, newest) in newest {
        let Some(token) = audit_token(*arch).filter(|token| *newest > 0 && !seen.contains(token)) else { continue };
        seen.push(token);
        program.extend([
            op(LOAD_WORD, ARCHITECTURE_OFFSET, 0, 0),
            op(JUMP_EQUAL, token, 0, 4),
            op(LOAD_WORD, NUMBER_OFFSET, 0, 0),
            op(JUMP_GREATER, X32_BIT - 1, 2, 0),
            op(JUMP_GREATER, *newest as u32, 0, 1),
            op(RETURN, RETURN_ERRNO | ENOSYS, 0, 0),
        ]);
    }
    program
}

/// `AUDIT_ARCH_*` of an architecture whose numbers start at zero.
fn audit_token(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::Native => return audit_token(native_name()),
        ScmpArch::X8664 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390X => 0x8000_0016,
        ScmpArch::Riscv64 => 0xc000_00f3,
        _ => return None,
    })
}

fn native_name() -> ScmpArch {
    match std::env::consts::ARCH {
        "aarch64" => ScmpArch::Aarch64,
        "riscv64" => ScmpArch::Riscv64,
        "s390x" => ScmpArch::S390X,
        _ => ScmpArch::X8664,
    }
}

fn store(directory: &Path, path: &Path, program: &[Instruction]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    if fs::read_dir(directory)?.count() >= MOST_FILTERS {
        return Ok(());
    }
    let temporary = directory.join(format!("tmp.{}", std::process::id()));
    let bytes: Vec<u8> = program.iter().flat_map(|instruction| instruction.to_bytes()).collect();
    fs::File::create(&temporary)?.write_all(&bytes)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).expect("parse")
    }

    #[test]
    fn a_profile_compiles_and_survives_the_cache() {
        let cache = tempfile::tempdir().expect("temp dir");
        let profile = profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
                "syscalls":[{"names":["read","write","no_such_call"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        let filter = FilterSource::compile(&profile).expect("check");
        let compiled = filter.program(Some(cache.path())).expect("compile");
        assert!(compiled.len() > 6);
        assert_eq!(filter.program(Some(cache.path())).expect("cached"), compiled);
        assert_eq!(fs::read_dir(cache.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_cache_has_an_end() {
        let cache = tempfile::tempdir().expect("temp dir");
        for number in 0..MOST_FILTERS {
            fs::write(cache.path().join(number.to_string()), "").expect("fill the cache");
        }
        let profile = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        FilterSource::compile(&profile).expect("check").program(Some(cache.path())).expect("compile");
        assert_eq!(fs::read_dir(cache.path()).expect("list").count(), MOST_FILTERS);
    }

    #[test]
    fn impossible_profiles_are_refused() {
        for (json, field) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "linux.seccomp.defaultAction"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
                "linux.seccomp.listenerPath",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO",
                    "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "linux.seccomp.syscalls[0].args[0].index",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#, "linux.seccomp.defaultErrnoRet"),
        ] {
            assert_eq!(FilterSource::compile(&profile(json)).expect_err(json).field, field);
        }
    }
}
