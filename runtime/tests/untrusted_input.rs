//! What the fuzz targets call, with mutations of good documents by a generator of fixed seed: the same thousands of
//! cases in every run. A panic fails the test.

use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use wharf_runtime::untrusted;

/// Cases of each kind of document.
const CASES: usize = 700;

/// Marsaglia's xorshift, good enough to choose places and values.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

fn values() -> Vec<Value> {
    let mut values = vec![json!(null), json!(true), json!([]), json!({}), json!([[]]), json!([{}]), json!(1.5e308)];
    values.extend([0, 1, -1, 7, 4096, i64::MAX, i64::MIN, i64::from(u32::MAX), 1 << 32].map(Value::from));
    values.push(u64::MAX.into());
    let words = ["", "/", "..", "/..", "a\0b", "0-8191", "3-1", "\u{1b}[2J", "relative", "/dev/null", "é=\u{10ffff}"];
    values.extend(words.map(Value::from));
    values.push("x".repeat(5000).into());
    values
}

/// Every place in a document.
fn places(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_string());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, inner)| places(inner, &format!("{path}/{index}"), found));
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, inner)| places(inner, &format!("{path}/{}", escape(key)), found));
        }
        _ => {}
    }
}

/// Changes one to four places: another value, one from elsewhere in the document, more of the same, or less.
fn mutate(good: &Value, dice: &mut Dice) -> Value {
    let values = values();
    let mut document = good.clone();
    for _ in 0..=dice.roll(4) {
        let mut all = Vec::new();
        places(&document, "", &mut all);
        let place = all[dice.roll(all.len())].clone();
        let other = document.pointer(&all[dice.roll(all.len())]).cloned().unwrap_or_default();
        let Some(here) = document.pointer_mut(&place) else { continue };
        match (dice.roll(6), &mut *here) {
            (0, _) => *here = other,
            (1, Value::Array(list)) if !list.is_empty() => {
                let copy = list[dice.roll(list.len())].clone();
                list.extend(std::iter::repeat_n(copy, 1 + dice.roll(40)));
            }
            (2, Value::Object(map)) => {
                drop(map.keys().nth(dice.roll(map.len())).cloned().and_then(|key| map.remove(&key)))
            }
            (3, Value::Number(number)) => *here = number.as_i64().map_or(json!(0), |n| json!(n.wrapping_neg())),
            (4, Value::String(text)) => *here = text.repeat(1 + dice.roll(3)).into(),
            _ => *here = values[dice.roll(values.len())].clone(),
        }
    }
    document
}

/// Cuts, flips and doubles bytes.
fn damage(mut bytes: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(4) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << dice.roll(8),
            2 if !bytes.is_empty() => drop(bytes.drain(at..(at + dice.roll(9)).min(bytes.len()))),
            _ => bytes.insert(at, dice.roll(256) as u8),
        }
    }
    bytes
}

/// Runs `read` on the good document, on mutations, and on damaged bytes. Most of what is structured must come through
/// to the end, or the mutations would test the parser only.
fn assault(name: &str, good: &Value, read: impl Fn(&[u8]) -> bool) {
    assert!(read(good.to_string().as_bytes()), "{name}: the good document was refused");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut taken = 0;
    for case in 0..CASES {
        let mut bytes = mutate(good, &mut dice).to_string().into_bytes();
        if case % 4 == 0 {
            bytes = damage(bytes, &mut dice);
        }
        let result = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
        let taking = result.unwrap_or_else(|_| panic!("{name}, case {case}: {}", String::from_utf8_lossy(&bytes)));
        taken += usize::from(taking);
    }
    assert!(taken > 0 && taken < CASES, "{name}: {taken} of {CASES} were taken");
}

fn seed(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    serde_json::from_slice(&fs::read(&path).expect("read seed")).expect("parse seed")
}

#[test]
fn no_configuration_makes_the_plan_panic() {
    assault("config", &seed("config/default.json"), untrusted::config);
    assault("config", &seed("config/everything.json"), untrusted::config);
}

#[test]
fn no_process_makes_exec_panic() {
    assault("process", &seed("config/everything.json")["process"], untrusted::process);
}

#[test]
fn no_profile_makes_seccomp_panic() {
    assault("seccomp", &seed("seccomp/profile.json"), untrusted::seccomp);
}

#[test]
fn no_state_and_no_message_of_the_shim_panics() {
    assault("state", &seed("state/state.json"), untrusted::state);
    assault("shim", &seed("shim/create.json"), untrusted::shim);
    assault("shim", &seed("shim/reply.json"), untrusted::shim);
}

#[test]
fn no_resources_make_update_panic() {
    let directory = tempfile::tempdir().expect("temp dir");
    for name in include_str!("../../fuzz/seeds/control-files").lines() {
        File::create(directory.path().join(name)).expect("make file");
    }
    let mut resources = seed("config/everything.json")["linux"]["resources"].clone();
    // Of v2 alone: a host with v1 refuses it.
    resources.as_object_mut().map(|map: &mut Map<_, _>| map.remove("unified"));
    assault("resources", &resources, |bytes| untrusted::resources(bytes, directory.path()));
}

#[test]
fn no_bytes_make_a_reader_of_the_kernels_files_or_of_frames_panic() {
    let layouts = include_bytes!("../../fuzz/seeds/layout/hybrid");
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    assert!(untrusted::layout(layouts));
    for _ in 0..CASES {
        untrusted::layout(&damage(layouts.to_vec(), &mut dice));
    }
    for tag in 0..=255u8 {
        for step in 0..=255u8 {
            untrusted::handshake(&[tag, step, 1, 2, 3, 4, b'/', 0xff]);
        }
    }
    assert!(!untrusted::handshake(&[9, 0, 0, 0, 0]));
    assert!(untrusted::handshake(&[&[6, 0, 0, 0, 0, 0][..], &[0xff; 8000]].concat()));
}
