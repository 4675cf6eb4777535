//! Namespaces that are joined by path: opened, and checked to be what the configuration takes them for.

use crate::error::{Error, While, cause};
use crate::plan::{Join, Plan, Refusal, namespace_name};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::{fs, namespace};

/// Opens all of them, in order.
///
/// # Errors
/// What is no namespace of the kind that is asked for; the runtime's own where the container would change the host
/// through it.
pub(crate) fn open_all(plan: &Plan) -> Result<Vec<(Kind, OwnedFd)>, Error> {
    plan.namespaces.join.iter().map(|join| Ok((join.kind, open(plan, join)?))).collect()
}

/// Opens one, refused if it is no namespace of this kind.
pub(crate) fn open_as(join: &Join) -> Result<OwnedFd, Error> {
    let refuse =
        |problem: String| Error::Refused(Refusal { field: format!("linux.namespaces[{}].path", join.index), problem });
    let shown = join.path.display();
    let fail = |error: io::Error| refuse(format!("open namespace {shown}: {}", cause(&error)));
    // Looked at before it is opened: opening a pipe waits for its other end, and a device may do anything.
    let place = fs::open_at(None, &fs::c_path(&join.path).map_err(fail)?, fs::O_PATH, 0, 0).map_err(fail)?;
    if fs::filesystem_magic(place.as_fd()).map_err(fail)? != fs::NSFS_MAGIC {
        return Err(refuse(format!("{shown} is not a namespace")));
    }
    let again = fs::c_path(&Path::new("/proc/self/fd").join(place.as_raw_fd().to_string())).map_err(fail)?;
    let file = fs::open_at(None, &again, fs::O_RDONLY, 0, 0).map_err(fail)?;
    if namespace::kind_of(file.as_fd()).map_err(fail)? != join.kind as i32 {
        return Err(refuse(format!("{shown} is not a {} namespace", namespace_name(join.kind))));
    }
    Ok(file)
}

fn open(plan: &Plan, join: &Join) -> Result<OwnedFd, Error> {
    let file = open_as(join)?;
    if is_own(join.kind, &file)?
        && let Some(field) = changed_through(plan, join.kind)
    {
        let name = namespace_name(join.kind);
        let problem = format!(
            "would change the host: linux.namespaces[{}].path {} is the {name} namespace that the runtime is in, \
             not in a separate kernel namespace",
            join.index,
            join.path.display()
        );
        return Err(Error::Refused(Refusal { field, problem }));
    }
    Ok(file)
}

fn is_own(kind: Kind, file: &OwnedFd) -> Result<bool, Error> {
    let name = match kind {
        Kind::Mount => "mnt",
        Kind::Network => "net",
        other => namespace_name(other),
    };
    let path = format!("/proc/self/ns/{name}");
    let own = fs::status_of(None, &fs::c_path(Path::new(&path)).during("read", &path)?, true).during("read", &path)?;
    let theirs = fs::status(file.as_fd()).during("read", &path)?;
    Ok((own.device, own.inode) == (theirs.device, theirs.inode))
}

/// The field by which the container changes what a namespace of this kind holds.
fn changed_through(plan: &Plan, kind: Kind) -> Option<String> {
    let sysctl = plan.sysctls.iter().find(|sysctl| sysctl.kind == kind);
    match kind {
        Kind::Mount => Some("linux.namespaces".into()),
        Kind::Uts if plan.hostname.is_some() => Some("hostname".into()),
        Kind::Uts if plan.domainname.is_some() => Some("domainname".into()),
        _ => sysctl.map(|sysctl| format!("linux.sysctl[{:?}]", sysctl.name)),
    }
}
