//! What an exec'd process has started: its session, and whatever descends from those.
//!
//! A process that has both left the session and lost its parent is a daemon of the container's, and is not found.

use std::collections::BTreeMap;

/// A process as `/proc/PID/stat` shows it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    session: i32,
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (_state, parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Stat { parent: parent.parse().ok()?, session: session.parse().ok()? })
}

/// Those of `candidates` that `root` has started, and itself.
pub(crate) fn of(root: i32, candidates: &[i32]) -> Vec<i32> {
    let read = |pid: &i32| Some((*pid, parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    select(root, &candidates.iter().filter_map(read).collect())
}

fn select(root: i32, processes: &BTreeMap<i32, Stat>) -> Vec<i32> {
    let mut found = vec![root];
    let mut before = 0;
    while found.len() > before {
        before = found.len();
        for (pid, stat) in processes {
            if !found.contains(pid) && (stat.session == root || found.contains(&stat.parent)) {
                found.push(*pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse_the_fields() {
        assert_eq!(parse("7 (a) R 1 (b)) S 3 4 5 0"), Some(Stat { parent: 3, session: 5 }));
        assert_eq!(parse("7 a S 3"), None);
    }

    #[test]
    fn a_tree_is_a_session_and_its_descendants() {
        let stat = |parent, session| Stat { parent, session };
        let processes = BTreeMap::from([
            (10, stat(1, 10)),
            // Lost its parent, but is in the session.
            (11, stat(1, 10)),
            // Has a session of its own, but its parent is there.
            (12, stat(11, 12)),
            (9, stat(12, 9)),
            // The container's own.
            (1, stat(0, 1)),
            (2, stat(1, 1)),
        ]);
        let mut tree = select(10, &processes);
        tree.sort();
        assert_eq!(tree, [9, 10, 11, 12]);
    }
}
