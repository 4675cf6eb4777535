//! `process`: what is executed and with which identity (runtime-spec, config.md#process).

use super::{Refusal, c_string};
use crate::capabilities;
use std::collections::HashMap;
use std::ffi::CString;
use wharf_specs::oci::{
    self, Capabilities, IOPriorityClass, Linux, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType,
};
use wharf_sys::limit::Scheduling;
use wharf_sys::terminal::Size;

/// The five capability sets; bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// A process, checked and in the kernel's terms.
#[derive(Debug, Clone)]
pub struct Process {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// `PATH` of `env`, for finding `args[0]`.
    pub search_path: Vec<u8>,
    /// Whether `env` has `HOME`; if not it is looked up in the container's `/etc/passwd`.
    pub has_home: bool,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    /// All empty where the configuration has none.
    pub capabilities: CapabilityPlan,
    /// Resource, its name, soft and hard limit.
    pub rlimits: Vec<(u32, &'static str, u64, u64)>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub terminal: bool,
    pub console_size: Option<Size>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    /// Class and level.
    pub io_priority: Option<(u32, u32)>,
    pub scheduler: Option<Scheduling>,
    /// The control group leaves out some CPUs, with which SCHED_DEADLINE does not go together.
    pub cpus_restricted: bool,
    /// Cpus before and after the process enters the container's cgroup; `exec` only.
    pub affinity_initial: Option<Vec<usize>>,
    pub affinity_final: Option<Vec<usize>>,
    pub personality: Option<u32>,
    pub memory_policy: Option<(i32, Vec<usize>)>,
}

impl Process {
    /// Compiles a process; `at` is its JSON path. What the standard lets pass with a warning is added to
    /// `warnings`.
    pub fn compile(process: &oci::Process, at: &str, warnings: &mut Vec<String>) -> Result<Self, Refusal> {
        let field = |name: &str| format!("{at}.{name}");
        let args = process.args().as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(Refusal::new(field("args"), "is missing or empty; allowed: the program and its arguments"));
        }
        if args[0].is_empty() {
            return Err(Refusal::new(field("args[0]"), "is empty; allowed: the program to run"));
        }
        if !process.cwd().is_absolute() {
            let problem = format!(
                "{:?} is not allowed; the Cwd property must not be empty and be an absolute path",
                process.cwd()
            );
            return Err(Refusal::new(field("cwd"), problem));
        }
        let (mut env, mut places) = (Vec::new(), HashMap::new());
        let (mut search_path, mut has_home) = (Vec::new(), false);
        for (index, entry) in process.env().iter().flatten().enumerate() {
            let name = format!("{at}.env[{index}]");
            let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(Refusal::new(name, format!("{entry:?} is not of the form NAME=value")));
            };
            match key {
                "PATH" => search_path = value.as_bytes().to_vec(),
                "HOME" => has_home = !value.is_empty(),
                _ => {}
            }
            let value = c_string(entry, &name)?;
            // The last setting of a variable wins, as in a shell.
            if let Some(earlier) = places.insert(key, env.len()) {
                env[earlier] = None;
            }
            env.push((key != "HOME" || has_home).then_some(value));
        }
        let user = process.user();
        if user.umask().is_some_and(|mask| mask > 0o777) {
            return Err(Refusal::new(field("user.umask"), "is larger than 0777"));
        }
        let cpus = |list: Option<&String>, name: &str| {
            list.filter(|list| !list.is_empty()).map(|list| index_list(list, &field(name))).transpose()
        };
        let affinity = process.exec_cpu_affinity().as_ref();
        Ok(Self {
            args: (0..)
                .zip(args)
                .map(|(index, arg)| c_string(arg, &field(&format!("args[{index}]"))))
                .collect::<Result<_, _>>()?,
            env: env.into_iter().flatten().collect(),
            search_path,
            has_home,
            cwd: c_string(process.cwd().as_os_str().as_encoded_bytes(), &field("cwd"))?,
            uid: id(user.uid(), &field("user.uid"))?,
            gid: id(user.gid(), &field("user.gid"))?,
            groups: groups(user, &field("user.additionalGids"))?,
            umask: user.umask(),
            capabilities: {
                let plan = process.capabilities().as_ref().map(capability_plan).unwrap_or_default();
                warnings.extend(ambient_warnings(plan));
                plan
            },
            rlimits: rlimits(process, &field("rlimits"))?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: oom_score_adj(process, &field("oomScoreAdj"))?,
            terminal: process.terminal().unwrap_or(false),
            console_size: console_size(process, &field("consoleSize"))?,
            apparmor_profile: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
            selinux_label: process.selinux_label().clone().filter(|label| !label.is_empty()),
            io_priority: io_priority(process, &field("ioPriority.priority"))?,
            scheduler: scheduler(process, &field("scheduler"))?,
            cpus_restricted: false,
            affinity_initial: cpus(affinity.and_then(|a| a.initial().as_ref()), "execCPUAffinity.initial")?,
            affinity_final: cpus(affinity.and_then(|a| a.cpu_affinity_final().as_ref()), "execCPUAffinity.final")?,
            personality: None,
            memory_policy: None,
        })
    }
}

/// The largest number means "leave it" to the kernel: the process would keep the runtime's id.
fn id(id: u32, field: &str) -> Result<u32, Refusal> {
    if id == u32::MAX {
        return Err(Refusal::new(field, format!("{id} is no id; allowed: 0 to {}", u32::MAX - 1)));
    }
    Ok(id)
}

fn groups(user: &oci::User, field: &str) -> Result<Vec<u32>, Refusal> {
    /// `NGROUPS_MAX` (linux/limits.h).
    const MAX_GROUPS: usize = 65_536;
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        return Err(Refusal::new(field, format!("has {} groups; allowed: up to {MAX_GROUPS}", groups.len())));
    }
    (0..).zip(groups).map(|(index, group)| id(*group, &format!("{field}[{index}]"))).collect()
}

fn capability_plan(sets: &oci::LinuxCapabilities) -> CapabilityPlan {
    let mask = |set: &Option<Capabilities>| set.iter().flatten().map(|c| capabilities::bit(*c)).fold(0, |a, b| a | b);
    CapabilityPlan {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

/// The kernel refuses an ambient capability that is not permitted and inheritable too.
fn ambient_warnings(plan: CapabilityPlan) -> Vec<String> {
    let refused = plan.ambient & !(plan.permitted & plan.inheritable);
    let all = capabilities::ALL.iter().filter(|capability| refused & capabilities::bit(**capability) != 0);
    let why = "it is not in the permitted and the inheritable set";
    all.map(|capability| format!("can't raise ambient capability {}: {why}", capabilities::name(*capability))).collect()
}

fn rlimits(process: &oci::Process, field: &str) -> Result<Vec<(u32, &'static str, u64, u64)>, Refusal> {
    let mut compiled: Vec<(u32, &'static str, u64, u64)> = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let (resource, name) = match limit.typ() {
            PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
            PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
            PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
            PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
            PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
            PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
            PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
            PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
            PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
            PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
            PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
            PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
            PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
            PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
            PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
            PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
        };
        if compiled.iter().any(|(other, ..)| *other == resource) {
            return Err(Refusal::new(format!("{field}[{index}].type"), format!("{name} stands in the list twice")));
        }
        if limit.soft() > limit.hard() {
            let problem = format!("{} is above the hard limit {}", limit.soft(), limit.hard());
            return Err(Refusal::new(format!("{field}[{index}].soft"), problem));
        }
        compiled.push((resource, name, limit.soft(), limit.hard()));
    }
    Ok(compiled)
}

fn oom_score_adj(process: &oci::Process, field: &str) -> Result<Option<i32>, Refusal> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Refusal::new(field, format!("{score} is out of range; allowed: -1000 to 1000")))
        }
        score => Ok(score),
    }
}

fn console_size(process: &oci::Process, field: &str) -> Result<Option<Size>, Refusal> {
    let Some(size) = process.console_size() else { return Ok(None) };
    match (u16::try_from(size.height()), u16::try_from(size.width())) {
        (Ok(rows), Ok(columns)) => Ok(Some(Size { rows, columns })),
        _ => Err(Refusal::new(field, "is out of range; allowed: up to 65535")),
    }
}

fn io_priority(process: &oci::Process, field: &str) -> Result<Option<(u32, u32)>, Refusal> {
    let Some(priority) = process.io_priority() else { return Ok(None) };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(Some((class, level))),
        _ => Err(Refusal::new(field, format!("{} is out of range; allowed: 0 to 7", priority.priority()))),
    }
}

fn scheduler(process: &oci::Process, field: &str) -> Result<Option<Scheduling>, Refusal> {
    let Some(scheduler) = process.scheduler() else { return Ok(None) };
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    if !(-20..=19).contains(&nice) {
        return Err(Refusal::new(format!("{field}.nice"), format!("{nice} is out of range; allowed: -20 to 19")));
    }
    if priority != 0 && !matches!(policy, 1 | 2) {
        let problem = "is only for SCHED_FIFO and SCHED_RR";
        return Err(Refusal::new(format!("{field}.priority"), problem));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|time| time.unwrap_or(0));
    if times != [0; 3] && policy != 6 {
        return Err(Refusal::new(
            format!("{field}.runtime"),
            "runtime, deadline and period are only for SCHED_DEADLINE",
        ));
    }
    let mut flags = 0;
    for flag in scheduler.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = u32::try_from(priority)
        .map_err(|_| Refusal::new(format!("{field}.priority"), format!("{priority} is negative")))?;
    let [runtime, deadline, period] = times;
    Ok(Some(Scheduling { size: 0, policy, flags, nice, priority, runtime, deadline, period }))
}

/// `linux.memoryPolicy` as the arguments of `set_mempolicy(2)`.
pub(super) fn memory_policy(linux: &Linux) -> Result<Option<(i32, Vec<usize>)>, Refusal> {
    use wharf_specs::oci::{MemoryPolicyFlagType, MemoryPolicyModeType};
    let Some(policy) = linux.memory_policy() else { return Ok(None) };
    let mut mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    for flag in policy.flags().iter().flatten() {
        mode |= match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        };
    }
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let field = "linux.memoryPolicy.nodes";
    let wrong = |refusal: Refusal| Refusal::new(field, format!("invalid memory policy nodes: {}", refusal.problem));
    let nodes = nodes.map(|nodes| index_list(nodes, field).map_err(wrong)).transpose()?.unwrap_or_default();
    if matches!(policy.mode(), MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal) && !nodes.is_empty()
    {
        let problem = format!("the {} mode requires 0 nodes but got {}", policy.mode(), nodes.len());
        return Err(Refusal::new(field, problem));
    }
    Ok(Some((mode, nodes)))
}

/// Parses the kernel's list format, `0-3,7`.
pub(crate) fn index_list(list: &str, field: &str) -> Result<Vec<usize>, Refusal> {
    const MAX_INDEX: usize = 8191;
    /// Every index by itself, with its comma.
    const MAX_BYTES: usize = 5 * (MAX_INDEX + 1);
    let shown: String = list.chars().take(64).collect();
    let wrong = || Refusal::new(field, format!("{shown:?} is not a list such as 0-3,7 of numbers up to {MAX_INDEX}"));
    if list.len() > MAX_BYTES {
        return Err(wrong());
    }
    let mut named = vec![false; MAX_INDEX + 1];
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse =
            |text: &str| text.trim().parse::<usize>().ok().filter(|index| *index <= MAX_INDEX).ok_or_else(wrong);
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last {
            return Err(wrong());
        }
        named[first..=last].fill(true);
    }
    Ok((0..).zip(named).filter_map(|(index, named)| named.then_some(index)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(json: &str) -> Result<Process, Refusal> {
        let process = wharf_specs::oci::parse_process(json.as_bytes()).expect("parse").value;
        Process::compile(&process, "process", &mut Vec::new())
    }

    #[test]
    fn the_last_value_of_a_variable_wins() {
        let json = r#"{"user":{},"cwd":"/","args":["a"],"env":["A=1","PATH=/x","A=2","AB=3"]}"#;
        let process = compile(json).expect("compile");
        let env: Vec<_> = process.env.iter().map(|e| e.to_str().expect("text")).collect();
        assert_eq!(env, ["PATH=/x", "A=2", "AB=3"]);
        assert_eq!(process.search_path, b"/x");
        assert!(!process.has_home);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (json, field) in [
            (r#"{"user":{},"cwd":"/"}"#, "process.args"),
            (r#"{"user":{},"cwd":"/","args":["a","b\u0000"]}"#, "process.args[1]"),
            (r#"{"user":{"uid":4294967295},"cwd":"/","args":["a"]}"#, "process.user.uid"),
            (r#"{"user":{"gid":4294967295},"cwd":"/","args":["a"]}"#, "process.user.gid"),
            (r#"{"user":{"additionalGids":[1,4294967295]},"cwd":"/","args":["a"]}"#, "process.user.additionalGids[1]"),
            (r#"{"user":{},"cwd":"x","args":["a"]}"#, "process.cwd"),
            (r#"{"user":{},"cwd":"/","args":["a"],"env":["A"]}"#, "process.env[0]"),
            (r#"{"user":{},"cwd":"/","args":["a"],"oomScoreAdj":1001}"#, "process.oomScoreAdj"),
            (
                r#"{"user":{},"cwd":"/","args":["a"],"rlimits":[{"type":"RLIMIT_CPU","soft":2,"hard":1}]}"#,
                "process.rlimits[0].soft",
            ),
            (
                r#"{"user":{},"cwd":"/","args":["a"],"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":8}}"#,
                "process.ioPriority.priority",
            ),
        ] {
            assert_eq!(compile(json).expect_err(json).field, field);
        }
    }

    #[test]
    fn index_lists_are_the_kernels() {
        assert_eq!(index_list("0-2,7", "f"), Ok(vec![0, 1, 2, 7]));
        assert!(index_list("3-1", "f").is_err());
        assert!(index_list("2-1", "f").is_err());
        assert!(index_list("0-99999999", "f").is_err());
        assert_eq!(index_list("7,7,0-7,1", "f").map(|list| list.len()), Ok(8));
        let refused = index_list(&"0-8191,".repeat(1 << 20), "f").expect_err("too long");
        assert!(refused.problem.len() < 200, "{refused}");
    }
}
