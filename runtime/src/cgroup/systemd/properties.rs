//! Limits as properties of a unit (systemd.resource-control(5), org.freedesktop.systemd1(5)).

use super::super::{Cgroup, Error, v2};
use crate::dbus::{Value, parse_value};
use std::fs;
use wharf_specs::oci::{LinuxCpu, LinuxMemory, LinuxResources};

const INFINITY: u64 = u64::MAX;
const DEFAULT_PERIOD_MICROSECONDS: u64 = 100_000;
const MICROSECONDS_PER_SECOND: u64 = 1_000_000;
/// systemd keeps a quota as whole percents of a processor.
const QUOTA_STEP_MICROSECONDS: u64 = 10_000;
/// Versions of systemd that brought a property.
const WITH_QUOTA_PERIOD: u32 = 242;
const WITH_CPUSET: u32 = 244;
const WITH_IDLE: u32 = 252;
/// More processors or nodes than any kernel is built for.
const MOST_CPUS: usize = 8192;

pub(super) fn property(name: &str, value: impl Into<Value>) -> Value {
    Value::Struct(vec![name.into(), Value::Variant(Box::new(value.into()))])
}

/// A property from an annotation, its value in GVariant's notation. Properties documented as `…Sec` are known on the
/// bus as `…USec`: a number of seconds is converted.
pub(super) fn annotated(name: &str, text: &str) -> Result<Value, Error> {
    let wrong = |problem: String| Error::Annotation { name: name.into(), problem };
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(wrong("is not the name of a property: letters only, three at least".into()));
    }
    let value = parse_value(text).map_err(|problem| wrong(format!("{text:?}: {problem}")))?;
    match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        Some(stem) => {
            let seconds = seconds(&value).ok_or_else(|| wrong(format!("{text:?} is not a number of seconds")))?;
            Ok(property(&format!("{stem}USec"), Value::U64(seconds)))
        }
        None => Ok(property(name, value)),
    }
}

/// In microseconds.
fn seconds(value: &Value) -> Option<u64> {
    let whole = match value {
        Value::Double(seconds) if *seconds >= 0.0 => return Some((seconds * MICROSECONDS_PER_SECOND as f64) as u64),
        Value::Byte(number) => i128::from(*number),
        Value::I16(number) => i128::from(*number),
        Value::U16(number) => i128::from(*number),
        Value::I32(number) => i128::from(*number),
        Value::U32(number) => i128::from(*number),
        Value::I64(number) => i128::from(*number),
        Value::U64(number) => i128::from(*number),
        _ => return None,
    };
    u64::try_from(whole * i128::from(MICROSECONDS_PER_SECOND)).ok()
}

/// Makes the processor's quota one that systemd can keep, so that it and the file say the same: rounded up to a
/// percent; and with both quota and period, the one that is not given being as it is at present.
pub(super) fn complete(resources: &mut LinuxResources, cgroup: &Cgroup) {
    let Some(mut cpu) = resources.cpu().clone() else { return };
    let given = |value: u64| value != 0;
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| given(*period)));
    if quota.is_none() && period.is_none() {
        return;
    }
    let (present_quota, present_period) = present(cgroup);
    let period = period.or(present_period).unwrap_or(DEFAULT_PERIOD_MICROSECONDS);
    let quota = quota.or(present_quota);
    cpu.set_period(Some(period));
    if let Some(quota) = quota {
        let rounded = match u64::try_from(quota) {
            Ok(quota) => i64::try_from(u128::from(per_second(quota, period)) * u128::from(period) / 1_000_000),
            Err(_) => Ok(quota),
        };
        cpu.set_quota(Some(rounded.unwrap_or(quota)));
    }
    resources.set_cpu(Some(cpu));
}

/// Quota and period of the live group.
fn present(cgroup: &Cgroup) -> (Option<i64>, Option<u64>) {
    let read = |file| cgroup.v1("cpu").and_then(|path| fs::read_to_string(path.join(file)).ok());
    if cgroup.is_v1() {
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<i64>().ok());
        let quota = number(read("cpu.cfs_quota_us")).filter(|quota| *quota > 0);
        return (quota, number(read("cpu.cfs_period_us")).and_then(|period| u64::try_from(period).ok()));
    }
    let text = cgroup.unified_path().and_then(|path| fs::read_to_string(path.join("cpu.max")).ok()).unwrap_or_default();
    let (quota, period) = text.trim().split_once(' ').unwrap_or_default();
    (quota.parse().ok(), period.parse().ok())
}

/// Microseconds of processor time per second, in systemd's steps.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * u128::from(MICROSECONDS_PER_SECOND) / u128::from(period.max(1));
    let exact = u64::try_from(exact).unwrap_or(INFINITY - QUOTA_STEP_MICROSECONDS);
    exact.div_ceil(QUOTA_STEP_MICROSECONDS) * QUOTA_STEP_MICROSECONDS
}

/// Properties on cgroup v2. What has none there is for the files.
pub(super) fn v2(resources: &LinuxResources, version: u32) -> Result<Vec<Value>, Error> {
    let mut properties = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_v2(memory, &mut properties)?;
    }
    if let Some(cpu) = resources.cpu() {
        match (cpu.idle(), cpu.shares().filter(|shares| *shares != 0)) {
            (Some(1), _) if version >= WITH_IDLE => properties.push(property("CPUWeight", Value::U64(0))),
            (_, Some(shares)) => properties.push(property("CPUWeight", Value::U64(v2::weight(shares)))),
            _ => {}
        }
        quota(cpu, version, &mut properties);
        cpuset(cpu, version, &mut properties)?;
    }
    properties.extend(tasks(resources));
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0) {
        properties.push(property("IOWeight", Value::U64(v2::io_weight(weight))));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort_unstable();
    let idle = unified.iter().any(|(file, value)| file.as_str() == "cpu.idle" && value.trim() == "1");
    for (file, value) in unified {
        properties.extend(of_file(file, value.trim(), version, idle)?);
    }
    Ok(properties)
}

/// Properties on cgroup v1.
pub(super) fn v1(resources: &LinuxResources) -> Vec<Value> {
    let mut properties = Vec::new();
    if let Some(limit) = resources.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit != 0) {
        properties.push(property("MemoryLimit", Value::U64(bytes(limit))));
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            properties.push(property("CPUShares", Value::U64(shares)));
        }
        quota(cpu, WITH_QUOTA_PERIOD, &mut properties);
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0) {
        properties.push(property("BlockIOWeight", Value::U64(weight.into())));
    }
    properties.extend(tasks(resources));
    properties
}

/// Every negative number is "no limit".
fn bytes(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

fn memory_v2(memory: &LinuxMemory, properties: &mut Vec<Value>) -> Result<(), Error> {
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        properties.push(property("MemoryMax", Value::U64(bytes(limit))));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        properties.push(property("MemoryLow", Value::U64(bytes(reservation))));
    }
    if let Some(swap) = v2::swap_alone(memory)? {
        properties.push(property("MemorySwapMax", Value::U64(bytes(swap))));
    }
    Ok(())
}

/// After [`complete`].
fn quota(cpu: &LinuxCpu, version: u32, properties: &mut Vec<Value>) {
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    if let Some(period) = period.filter(|_| version >= WITH_QUOTA_PERIOD) {
        properties.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota.is_some() || period.is_some() {
        let value = match quota.and_then(|quota| u64::try_from(quota).ok()) {
            Some(quota) => per_second(quota, period.unwrap_or(DEFAULT_PERIOD_MICROSECONDS)),
            None => INFINITY,
        };
        properties.push(property("CPUQuotaPerSecUSec", Value::U64(value)));
    }
}

fn cpuset(cpu: &LinuxCpu, version: u32, properties: &mut Vec<Value>) -> Result<(), Error> {
    for (name, list, field) in [("AllowedCPUs", cpu.cpus(), "cpu.cpus"), ("AllowedMemoryNodes", cpu.mems(), "cpu.mems")]
    {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty() && version >= WITH_CPUSET) {
            properties.push(property(name, Value::bytes(&bits(list, field)?)));
        }
    }
    Ok(())
}

fn tasks(resources: &LinuxResources) -> Option<Value> {
    let limit = resources.pids().as_ref().map(|pids| pids.limit())?;
    // systemd takes no 0, and no process at all is as good as one.
    Some(property("TasksMax", Value::U64(bytes(limit).max(1))))
}

/// A list such as `0-3,7` as a bit mask, the lowest number first.
fn bits(list: &str, field: &str) -> Result<Vec<u8>, Error> {
    let wrong = || Error::Value { field: field.into(), problem: format!("{list:?} is not a list such as 0-3,7") };
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < MOST_CPUS).ok_or_else(wrong);
    let mut mask = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1u8 << (bit % 8);
        }
    }
    if mask.is_empty() { Err(wrong()) } else { Ok(mask) }
}

/// The property for a file of `linux.resources.unified`, if there is one.
fn of_file(file: &str, value: &str, version: u32, idle: bool) -> Result<Vec<Value>, Error> {
    let field = || format!("unified[{file:?}]");
    let wrong = |allowed: &str| Error::Value { field: field(), problem: format!("{value:?} is not {allowed}") };
    let number = || match value {
        "max" => Ok(INFINITY),
        digits => digits.parse::<u64>().map_err(|_| wrong("a number or max")),
    };
    if file.contains('/') || file.find('.').is_none_or(|dot| dot == 0) {
        let problem = "is not a file of a controller, such as memory.high".into();
        return Err(Error::Value { field: field(), problem });
    }
    let name = match file {
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => return Ok(vec![property("TasksMax", Value::U64(number()?.max(1)))]),
        "cpu.idle" if value == "1" && version >= WITH_IDLE => return Ok(vec![property("CPUWeight", Value::U64(0))]),
        // One property stands for both files.
        "cpu.weight" if idle && version >= WITH_IDLE => return Ok(Vec::new()),
        "cpu.weight" => "CPUWeight",
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let mut cpu = LinuxCpu::default();
            let number = |word: &str| word.parse::<i64>().ok().filter(|number| *number > 0);
            let (quota, period) = match (words.next(), words.next(), words.next()) {
                (Some("max"), period, None) => (Some(-1), period.map(number)),
                (Some(quota), period, None) => (number(quota), period.map(number)),
                _ => (None, None),
            };
            let expected = || wrong("a quota or max, and a period if wanted, in microseconds");
            let period = period.map(|period| period.ok_or_else(expected)).transpose()?;
            cpu.set_quota(Some(quota.ok_or_else(expected)?));
            cpu.set_period(Some(period.map_or(DEFAULT_PERIOD_MICROSECONDS, i64::cast_unsigned)));
            let mut properties = Vec::new();
            self::quota(&cpu, version, &mut properties);
            return Ok(properties);
        }
        "cpuset.cpus" | "cpuset.mems" if version >= WITH_CPUSET => {
            let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            return Ok(vec![property(name, Value::bytes(&bits(value, &field())?))]);
        }
        _ => return Ok(Vec::new()),
    };
    Ok(vec![property(name, Value::U64(number()?))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and values, for comparing.
    fn shown(properties: &[Value]) -> Vec<String> {
        let one = |property: &Value| match property {
            Value::Struct(fields) => match fields.as_slice() {
                [Value::String(name), Value::Variant(value)] => match &**value {
                    Value::U64(INFINITY) => format!("{name}=max"),
                    Value::U64(number) => format!("{name}={number}"),
                    Value::Array(_, items) => format!("{name}={items:?}"),
                    other => format!("{name}={other:?}"),
                },
                _ => "no property".into(),
            },
            _ => "no property".into(),
        };
        properties.iter().map(one).collect()
    }

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).expect("resources")
    }

    fn of(json: &str) -> Vec<String> {
        let mut resources = resources(json);
        complete(&mut resources, &Cgroup::from_paths([]));
        shown(&v2(&resources, 252).expect("properties"))
    }

    #[test]
    fn limits_become_properties_on_v2() {
        assert_eq!(
            of(r#"{"memory":{"limit":4096,"swap":8192,"reservation":1024},"pids":{"limit":0}}"#),
            ["MemoryMax=4096", "MemoryLow=1024", "MemorySwapMax=4096", "TasksMax=1"]
        );
        assert_eq!(
            of(r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#),
            ["MemoryMax=max", "MemorySwapMax=max", "TasksMax=max"]
        );
        assert_eq!(of(r#"{"cpu":{"shares":1024,"idle":1}}"#), ["CPUWeight=0"]);
        assert_eq!(of(r#"{"cpu":{"shares":1024},"blockIO":{"weight":10}}"#), ["CPUWeight=100", "IOWeight=1"]);
        assert_eq!(
            of(r#"{"cpu":{"cpus":"0,9","mems":"0"}}"#),
            ["AllowedCPUs=[Byte(1), Byte(2)]", "AllowedMemoryNodes=[Byte(1)]"]
        );
    }

    #[test]
    fn limits_become_properties_on_v1() {
        let json = r#"{"memory":{"limit":4096,"swap":-1},"cpu":{"shares":512,"quota":5000},"blockIO":{"weight":77}}"#;
        assert_eq!(
            shown(&v1(&resources(json))),
            ["MemoryLimit=4096", "CPUShares=512", "CPUQuotaPerSecUSec=50000", "BlockIOWeight=77"]
        );
    }

    #[test]
    fn a_quota_is_rounded_up_to_a_percent() {
        let mut rounded = resources(r#"{"cpu":{"quota":4200,"period":10000}}"#);
        complete(&mut rounded, &Cgroup::from_paths([]));
        assert_eq!(rounded.cpu().as_ref().and_then(LinuxCpu::quota), Some(4200));
        let mut rounded = resources(r#"{"cpu":{"quota":4201,"period":10000}}"#);
        complete(&mut rounded, &Cgroup::from_paths([]));
        assert_eq!(rounded.cpu().as_ref().and_then(LinuxCpu::quota), Some(4300));
        assert_eq!(
            of(r#"{"cpu":{"quota":4201,"period":10000}}"#),
            ["CPUQuotaPeriodUSec=10000", "CPUQuotaPerSecUSec=430000"]
        );
        assert_eq!(of(r#"{"cpu":{"period":10000}}"#), ["CPUQuotaPeriodUSec=10000", "CPUQuotaPerSecUSec=max"]);
        assert_eq!(of(r#"{"cpu":{"quota":-1}}"#), ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=max"]);
    }

    #[test]
    fn unified_files_with_a_property_are_told_to_systemd() {
        assert_eq!(
            of(
                r#"{"unified":{"memory.high":"max","pids.max":" 0 ","cpu.max":"5000 10000","io.latency":"x","cpuset.cpus":"1"}}"#
            ),
            [
                "CPUQuotaPeriodUSec=10000",
                "CPUQuotaPerSecUSec=500000",
                "AllowedCPUs=[Byte(2)]",
                "MemoryHigh=max",
                "TasksMax=1"
            ]
        );
        assert_eq!(of(r#"{"unified":{"cpu.idle":"1","cpu.weight":"7"}}"#), ["CPUWeight=0"]);
        for wrong in [r#"{"memory.max":"1k"}"#, r#"{"cpu.max":"1 2 3"}"#, r#"{"a/b.c":"1"}"#, r#"{"memory":"1"}"#] {
            let resources = resources(&format!("{{\"unified\":{wrong}}}"));
            assert!(v2(&resources, 252).is_err(), "{wrong}");
        }
    }

    #[test]
    fn older_systemds_get_what_they_know() {
        let resources = resources(r#"{"cpu":{"idle":1,"shares":1024,"quota":5000,"period":10000,"cpus":"0"}}"#);
        assert_eq!(shown(&v2(&resources, 241).expect("properties")), ["CPUWeight=100", "CPUQuotaPerSecUSec=500000"]);
    }

    #[test]
    fn lists_of_cpus_become_masks() {
        assert_eq!(bits("0-3,7", "f").expect("list"), [0x8f]);
        assert_eq!(bits(" 8 , 10", "f").expect("list"), [0, 5]);
        for wrong in ["", ",", "3-1", "x", "-1", "1-", "99999"] {
            assert!(bits(wrong, "cpu.cpus").is_err(), "{wrong}");
        }
    }

    #[test]
    fn annotations_become_properties() {
        let one = |name, text| annotated(name, text).map(|property| shown(&[property]).remove(0));
        assert_eq!(one("TimeoutStopUSec", "uint64 123456789").expect("typed"), "TimeoutStopUSec=123456789");
        assert_eq!(one("TimeoutStopSec", "1.5").expect("seconds"), "TimeoutStopUSec=1500000");
        assert_eq!(
            one("CollectMode", "'inactive-or-failed'").expect("text"),
            "CollectMode=String(\"inactive-or-failed\")"
        );
        for (name, text) in [("Co", "'x'"), ("Collect Mode", "'x'"), ("CollectMode", "x"), ("TimeoutStopSec", "'a'")] {
            let error = annotated(name, text).expect_err(text).to_string();
            assert!(error.contains("org.systemd.property."), "{error}");
        }
    }
}
