//! Who an image runs as: `USER name[:group]` looked up in the image's own `/etc/passwd` and `/etc/group`,
//! without mounting it.

use std::io;
use std::path::PathBuf;

use crate::image::Image;
use crate::merged;
use crate::snapshot::RootFs;
use crate::store::Store;

/// Far more than any account file has.
const ACCOUNTS_MAX_BYTES: u64 = 4 << 20;
/// The kernel's limit on a process' additional groups (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;

/// A user as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Groups of `/etc/group` that list the user's name, sorted, without `gid`. Empty when a group was asked for by
    /// name or number, as docker does.
    pub additional_gids: Vec<u32>,
    /// From `/etc/passwd`; `/` where the user is not in it.
    pub home: PathBuf,
    /// The account's name, where there is one.
    pub name: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("user `{0}`: expected name, uid, name:group or uid:gid")]
    Shape(String),
    #[error("user `{user}`: `{number}` is no 32-bit id")]
    Number { user: String, number: String },
    #[error("user `{0}`: no such name in the image's /etc/passwd")]
    NoUser(String),
    #[error("user `{user}`: no group `{group}` in the image's /etc/group")]
    NoGroup { user: String, group: String },
    #[error("user `{user}`: is in more than {GROUPS_MAX} groups")]
    TooManyGroups { user: String },
    #[error("user `{user}`: read {file} of the image")]
    Read {
        user: String,
        file: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Resolves `user` (an image's `USER`, a CRI `run_as_username` or a number; empty for root) inside `root`.
pub fn resolve(root: &RootFs, user: &str) -> Result<User, UserError> {
    resolve_in_layers(|| root.layers(), user)
}

/// [`resolve`] in an image as it is, without a container.
pub fn resolve_in_image(store: &Store, image: &Image, user: &str) -> Result<User, UserError> {
    let layers = store.layer_directories(image);
    resolve_in_layers(|| layers.iter(), user)
}

fn resolve_in_layers<'a, L: Iterator<Item = &'a PathBuf>>(
    layers: impl Fn() -> L,
    user: &str,
) -> Result<User, UserError> {
    let read = |file: &'static str| {
        merged::read(layers(), file.as_bytes(), ACCOUNTS_MAX_BYTES)
            .map(|content| String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
            .map_err(|source| UserError::Read { user: user.into(), file, source })
    };
    resolve_in(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// [`resolve`] on the two files' content.
fn resolve_in(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (name, wanted_group) = match user.split_once(':') {
        None => (user, None),
        Some((name, group)) => (name, Some(group)),
    };
    let empty_part = (name.is_empty() && !user.is_empty()) || wanted_group.is_some_and(str::is_empty);
    if empty_part || wanted_group.is_some_and(|group| group.contains(':')) {
        return Err(UserError::Shape(user.into()));
    }
    // Digits are never a name: otherwise an image's passwd could make uid 1000 mean root.
    let account = match number(if name.is_empty() { "0" } else { name }, user)? {
        Some(uid) => {
            accounts(passwd).find(|account| account.uid == uid).unwrap_or(Account { name: "", uid, gid: 0, home: "/" })
        }
        None => accounts(passwd).find(|account| account.name == name).ok_or_else(|| UserError::NoUser(user.into()))?,
    };
    let (gid, additional_gids) = match wanted_group {
        Some(wanted) => (group_id(user, wanted, group)?, Vec::new()),
        None => (account.gid, additional_groups(user, &account, group)?),
    };
    Ok(User {
        uid: account.uid,
        gid,
        additional_gids,
        home: match account.home {
            "" => PathBuf::from("/"),
            home => PathBuf::from(home),
        },
        name: (!account.name.is_empty()).then(|| account.name.into()),
    })
}

/// One line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that are no accounts (comments, NIS markers) are passed over, as getpwnam(3) does.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Account { name, uid: strict(uid)?, gid: strict(gid)?, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Group { name, gid: strict(gid)?, members })
    })
}

fn group_id(user: &str, wanted: &str, group: &str) -> Result<u32, UserError> {
    match number(wanted, user)? {
        Some(gid) => Ok(gid),
        None => groups(group)
            .find(|entry| entry.name == wanted)
            .map(|entry| entry.gid)
            .ok_or_else(|| UserError::NoGroup { user: user.into(), group: wanted.into() }),
    }
}

fn additional_groups(user: &str, account: &Account<'_>, group: &str) -> Result<Vec<u32>, UserError> {
    if account.name.is_empty() {
        return Ok(Vec::new());
    }
    let mut gids: Vec<u32> = groups(group)
        .filter(|entry| entry.members.split(',').any(|member| member == account.name))
        .map(|entry| entry.gid)
        .filter(|gid| *gid != account.gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    match gids.len() > GROUPS_MAX {
        true => Err(UserError::TooManyGroups { user: user.into() }),
        false => Ok(gids),
    }
}

/// `Some` if `text` is a number, `None` if it is a name, an error if it is a number that is no id.
fn number(text: &str, user: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match strict(text) {
        Some(id) => Ok(Some(id)),
        None => Err(UserError::Number { user: user.into(), number: text.into() }),
    }
}

/// Digits only, and not the value that the kernel takes for "no id".
fn strict(text: &str) -> Option<u32> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok().filter(|id| *id != u32::MAX),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n+::::::\n\
        web:x:33:33:www:/var/www:/bin/false\n1000:x:0:0:trap:/trap:/bin/sh\nbad:x:4294967296:0::/:\n\
        nohome:x:7:8:::/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:web\nlog:x:4:web,other\nadm:x:5:other\nagain:x:4:web\nten:x:10:root\n";

    fn user(text: &str) -> User {
        resolve_in(text, PASSWD, GROUP).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        for (text, uid, gid, more, home) in [
            ("", 0, 0, &[10][..], "/root"),
            ("root", 0, 0, &[10], "/root"),
            ("web", 33, 33, &[4], "/var/www"),
            ("33", 33, 33, &[4], "/var/www"),
            ("web:log", 33, 4, &[], "/var/www"),
            ("web:77", 33, 77, &[], "/var/www"),
            ("4242", 4242, 0, &[], "/"),
            ("4242:log", 4242, 4, &[], "/"),
            ("nohome", 7, 8, &[], "/"),
            ("4294967294", 4294967294, 0, &[], "/"),
        ] {
            let found = user(text);
            assert_eq!((found.uid, found.gid), (uid, gid), "{text}");
            assert_eq!(found.additional_gids, more, "{text}");
            assert_eq!(found.home, PathBuf::from(home), "{text}");
        }
    }

    #[test]
    fn digits_are_never_a_name() {
        assert_eq!(user("1000").uid, 1000);
    }

    #[test]
    fn what_is_no_user_is_refused() {
        for (text, part) in [
            ("nobody", "no such name"),
            ("bad", "no such name"),
            ("web:nogroup", "no group `nogroup`"),
            ("4294967295", "no 32-bit id"),
            ("4294967296", "no 32-bit id"),
            ("-1", "no 32-bit id"),
            ("+0", "no 32-bit id"),
            ("0:-1", "no 32-bit id"),
            (":0", "expected name"),
            ("web:", "expected name"),
            ("a:b:c", "expected name"),
        ] {
            let error = resolve_in(text, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
