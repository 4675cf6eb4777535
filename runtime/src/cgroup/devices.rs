//! `linux.resources.devices`: lists on v1, an eBPF program on v2.
//!
//! Nothing is allowed at first. The rules of the configuration follow in order, then what every container may use (runtime-spec, config-linux.md#allowed-device-list).

use super::Error;
use super::limits::limit;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use wharf_specs::oci::{LinuxDeviceType, LinuxResources};
use wharf_sys::bpf::{self, Instruction};
use wharf_sys::errno;

/// One rule; later rules win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `None` is both block and character devices.
    pub(super) kind: Option<Kind>,
    /// `None` is any.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Character,
}

/// Bits as the kernel's BPF context has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(u32);

impl Access {
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;
    const ALL: Access = Access(7);

    pub(super) fn text(self) -> String {
        let letters = [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')];
        letters.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, letter)| letter).collect()
    }
}

/// Character devices every container may use: null, zero, full, random, urandom, tty, ptmx, and the
/// pseudo terminals.
const ALLOWED: [(u32, Option<u32>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

pub(super) fn rules(resources: Option<&LinuxResources>) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for (index, rule) in resources.and_then(|r| r.devices().as_ref()).into_iter().flatten().enumerate() {
        let wrong = |name: &str, problem: String| Error::Value { field: format!("devices[{index}].{name}"), problem };
        let number = |name, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => match u32::try_from(value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(wrong(name, format!("{value} is not a device number"))),
            },
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => Access::READ,
                'w' => Access::WRITE,
                'm' => Access::MKNOD,
                // No letter of the standard, but in use.
                'a' => Access::ALL.0,
                _ => return Err(wrong("access", format!("{letter:?} is not an access; allowed: r, w, m"))),
            };
        }
        let access = if access == 0 { Access::ALL } else { Access(access) };
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(Kind::Block),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
            LinuxDeviceType::P => return Err(wrong("type", "\"p\" is not allowed; allowed: a, b, c".into())),
        };
        let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
        rules.push(Rule { allow: rule.allow(), kind, major, minor, access });
    }
    let allow = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    // Any node may be made, for archives that hold some; using it is another matter.
    rules.push(allow(Kind::Character, None, None, Access(Access::MKNOD)));
    rules.push(allow(Kind::Block, None, None, Access(Access::MKNOD)));
    rules.extend(ALLOWED.map(|(major, minor)| allow(Kind::Character, Some(major), minor, Access::ALL)));
    // What stands before a rule for everything has no effect.
    if let Some(last) = rules.iter().rposition(|rule| rule.is_everything()) {
        rules.drain(..last);
    }
    Ok(rules)
}

impl Rule {
    pub(super) fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == Access::ALL
    }

    pub(super) fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// The line of `devices.allow` and `devices.deny`; a rule for both kinds needs two.
    fn lines(&self) -> Vec<String> {
        let number = |value: Option<u32>| value.map_or("*".into(), |value| value.to_string());
        let tail = format!("{}:{} {}", number(self.major), number(self.minor), self.access.text());
        match self.kind {
            _ if self.is_everything() => vec!["a".into()],
            Some(Kind::Block) => vec![format!("b {tail}")],
            Some(Kind::Character) => vec![format!("c {tail}")],
            None => vec![format!("b {tail}"), format!("c {tail}")],
        }
    }
}

pub(super) fn apply_v1(path: &Path, rules: &[Rule]) -> Result<(), Error> {
    if !rules.first().is_some_and(Rule::is_everything) {
        limit(path, "devices.deny", "a", "devices")?;
    }
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        for line in rule.lines() {
            limit(path, file, line, "devices")?;
        }
    }
    Ok(())
}

pub(super) fn apply_v2(path: &Path, rules: &[Rule]) -> Result<(), Error> {
    let fail = |operation: &'static str| {
        let path = path.to_path_buf();
        move |source| Error::Directory { operation, path, source }
    };
    let group = File::open(path).map_err(fail("open"))?;
    let old = bpf::device_programs(group.as_fd()).map_err(fail("query device programs of"))?;
    let program = bpf::load_device_program(&program(rules)).map_err(fail("load device program of"))?;
    bpf::attach_device_program(group.as_fd(), program.as_fd()).map_err(fail("attach device program to"))?;
    for program in old {
        match bpf::detach_device_program(group.as_fd(), program.as_fd()) {
            Err(error) if error.raw_os_error() != Some(errno::ENOENT) => {
                return Err(fail("detach device program from")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Compiles the rules to a program that returns 1 to allow. The last rule that fits decides, so the last is
/// asked first.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // Opcodes of the kernel documentation, bpf/standardization/instruction-set.
    const LOAD_WORD: u8 = 0x61;
    const AND_IMMEDIATE: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const MOVE_REGISTER: u8 = 0xbc;
    const MOVE_IMMEDIATE: u8 = 0xb4;
    const JUMP_NOT_EQUAL: u8 = 0x56;
    const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5e;
    const JUMP_EQUAL: u8 = 0x16;
    const EXIT: u8 = 0x95;
    // r1 is the context {access_type, major, minor}; r2 to r5 are kind, access, major, minor; r6 is scratch.
    let op = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 3, 1, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push(op(JUMP_NOT_EQUAL, 2, 0, 0, if kind == Kind::Block { 1 } else { 2 }));
        }
        if rule.access != Access::ALL {
            tests.push(op(MOVE_REGISTER, 6, 3, 0, 0));
            tests.push(op(AND_IMMEDIATE, 6, 0, 0, rule.access.0 as i32));
            tests.push(if rule.allow {
                // Everything asked for must be in the rule.
                op(JUMP_NOT_EQUAL_REGISTER, 6, 3, 0, 0)
            } else {
                // Anything asked for that is in the rule is refused.
                op(JUMP_EQUAL, 6, 0, 0, 0)
            });
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(op(JUMP_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        // Every jump goes behind the two instructions of the verdict.
        let length = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER | JUMP_EQUAL) {
                test.offset = (length - index - 1 + 2) as i16;
            }
        }
        let unconditional = tests.is_empty();
        program.extend(tests);
        program.extend([op(MOVE_IMMEDIATE, 0, 0, 0, rule.allow.into()), op(EXIT, 0, 0, 0, 0)]);
        if unconditional {
            // What follows could not be reached, which the verifier refuses.
            return program;
        }
    }
    program.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

/// Whether the rules can be written for both versions of cgroups.
pub(crate) fn compile(resources: &LinuxResources) -> bool {
    rules(Some(resources)).is_ok_and(|rules| {
        rules.iter().all(|rule| !rule.lines().is_empty() || rule.is_everything()) && !program(&rules).is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(json: &str) -> Result<Vec<Rule>, Error> {
        rules(Some(&serde_json::from_str(json).expect("parse")))
    }

    #[test]
    fn deny_all_then_allow_becomes_lines_in_order() {
        let rules = rules_of(
            r#"{"devices":[{"allow":true,"type":"b","access":"r"},{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":200,"access":"rw"}]}"#,
        )
        .expect("rules");
        assert!(rules[0].is_everything() && !rules[0].allow);
        assert_eq!(rules[1].lines(), ["c 10:200 rw"]);
        assert_eq!(rules.last().map(Rule::lines), Some(vec!["c 136:* rwm".to_string()]));
    }

    #[test]
    fn a_wrong_access_letter_is_refused() {
        assert!(rules_of(r#"{"devices":[{"allow":true,"access":"rx"}]}"#).is_err());
    }
}
