//! What CRIU's images say of the rights of a task: its `core-ID.img`, one for each thread. An image is two magic numbers,
//! then a length and a protobuf message; all numbers are little endian, names and numbers of fields are CRIU's.

use prost::Message;

pub mod untrusted;

/// Of every image since version 1.1 of the format.
const COMMON_MAGIC: u32 = 0x5456_4319;
const CORE_MAGIC: u32 = 0x5505_3847;

/// Of an image of one thread: registers, timers and the signals that wait for it. Real ones have a few KiB.
pub const CORE_BYTES_MAX: usize = 1 << 20;

/// Words of 32 bits that a set of capabilities has.
const CAPABILITY_WORDS: usize = 2;

/// A system call filter of BPF (`SECCOMP_MODE_FILTER`, seccomp(2)).
const SECCOMP_FILTER: u32 = 2;

/// Whom a thread acts as, and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Real, effective, saved, and of file systems.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding: bit N is capability N.
    pub capabilities: [u64; 4],
    /// Its system calls are filtered.
    pub filtered: bool,
}

/// Why an image is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("has {0} bytes, at most {CORE_BYTES_MAX} are taken")]
    TooLong(usize),
    #[error("does not begin as an image of a thread")]
    Magic,
    #[error("says that its message has {said} bytes, and has {found}")]
    Length { said: u32, found: usize },
    #[error("is no message of a thread: {0}")]
    Message(String),
    #[error("has a thread without credentials")]
    NoCredentials,
    #[error("has {0} words of 32 bits in a set of capabilities, expected {CAPABILITY_WORDS}")]
    Words(usize),
}

#[derive(Clone, PartialEq, Message)]
struct Core {
    #[prost(message, optional, tag = "5")]
    thread: Option<Thread>,
}

#[derive(Clone, PartialEq, Message)]
struct Thread {
    #[prost(message, optional, tag = "10")]
    credentials: Option<Credentials>,
    #[prost(uint32, optional, tag = "11")]
    seccomp_mode: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Credentials {
    #[prost(uint32, required, tag = "1")]
    uid: u32,
    #[prost(uint32, required, tag = "2")]
    gid: u32,
    #[prost(uint32, required, tag = "3")]
    euid: u32,
    #[prost(uint32, required, tag = "4")]
    egid: u32,
    #[prost(uint32, required, tag = "5")]
    suid: u32,
    #[prost(uint32, required, tag = "6")]
    sgid: u32,
    #[prost(uint32, required, tag = "7")]
    fsuid: u32,
    #[prost(uint32, required, tag = "8")]
    fsgid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    inheritable: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    permitted: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    effective: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    bounding: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    groups: Vec<u32>,
}

/// The rights of the thread that an image `core-ID.img` holds, or `None` of one that has ended and waits to be reaped.
///
/// # Errors
/// If it is no such image, or may mean something else to CRIU than to us.
pub fn rights(image: &[u8]) -> Result<Option<Rights>, Error> {
    if image.len() > CORE_BYTES_MAX {
        return Err(Error::TooLong(image.len()));
    }
    let mut rest = image;
    if (word(&mut rest), word(&mut rest)) != (Some(COMMON_MAGIC), Some(CORE_MAGIC)) {
        return Err(Error::Magic);
    }
    let said = word(&mut rest).ok_or(Error::Magic)?;
    if said as usize != rest.len() {
        return Err(Error::Length { said, found: rest.len() });
    }
    let core = Core::decode(rest).map_err(|error| Error::Message(error.to_string()))?;
    let Some(thread) = core.thread else { return Ok(None) };
    let found = thread.credentials.ok_or(Error::NoCredentials)?;
    let sets = [&found.inheritable, &found.permitted, &found.effective, &found.bounding];
    let mut capabilities = [0; 4];
    for (set, words) in capabilities.iter_mut().zip(sets) {
        *set = capability_set(words)?;
    }
    Ok(Some(Rights {
        uids: [found.uid, found.euid, found.suid, found.fsuid],
        gids: [found.gid, found.egid, found.sgid, found.fsgid],
        groups: found.groups,
        capabilities,
        filtered: thread.seccomp_mode == Some(SECCOMP_FILTER),
    }))
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*word))
}

/// A message that has its fields twice is joined of both by one reader, and is the later one to another: it has too many words.
fn capability_set(words: &[u32]) -> Result<u64, Error> {
    match words {
        [low, high] => Ok(u64::from(*high) << 32 | u64::from(*low)),
        _ => Err(Error::Words(words.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(core: &Core) -> Vec<u8> {
        let message = core.encode_to_vec();
        let header = [COMMON_MAGIC, CORE_MAGIC, message.len() as u32];
        header.iter().flat_map(|word| word.to_le_bytes()).chain(message).collect()
    }

    fn credentials() -> Credentials {
        Credentials {
            uid: 1,
            euid: 2,
            gid: 3,
            groups: vec![7],
            inheritable: vec![0, 0],
            permitted: vec![1, 2],
            effective: vec![0, 0],
            bounding: vec![1 << 21, 0],
            ..Credentials::default()
        }
    }

    fn of(credentials: Option<Credentials>, seccomp_mode: Option<u32>) -> Core {
        Core { thread: Some(Thread { credentials, seccomp_mode }) }
    }

    #[test]
    fn the_rights_of_a_thread_are_read() {
        let found = rights(&image(&of(Some(credentials()), Some(2)))).expect("read").expect("a thread");
        assert_eq!((found.uids, found.gids, found.groups), ([1, 2, 0, 0], [3, 0, 0, 0], vec![7]));
        assert_eq!(found.capabilities, [0, 2 << 32 | 1, 0, 1 << 21]);
        assert!(found.filtered);
        assert_eq!(rights(&image(&Core { thread: None })), Ok(None), "one that has ended");
    }

    #[test]
    fn what_criu_might_read_in_another_way_is_refused() {
        let right = image(&of(Some(credentials()), None));
        let mut twice = right.clone();
        twice.extend_from_slice(&right[12..]);
        let length = (twice.len() - 12) as u32;
        twice[8..12].copy_from_slice(&length.to_le_bytes());
        assert_eq!(rights(&twice), Err(Error::Words(4)));
        let mut longer = right.clone();
        longer.push(0);
        let found = right.len() - 11;
        assert_eq!(rights(&longer), Err(Error::Length { said: found as u32 - 1, found }));
        assert_eq!(rights(&right[4..]), Err(Error::Magic), "the older form");
        assert_eq!(rights(&right[..11]), Err(Error::Magic));
        assert_eq!(rights(&image(&of(None, None))), Err(Error::NoCredentials));
        let none = Credentials { bounding: Vec::new(), ..credentials() };
        assert_eq!(rights(&image(&of(Some(none), None))), Err(Error::Words(0)));
        assert_eq!(rights(&vec![0; CORE_BYTES_MAX + 1]), Err(Error::TooLong(CORE_BYTES_MAX + 1)));
    }
}
