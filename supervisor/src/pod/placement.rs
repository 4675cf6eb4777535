//! Where the control groups of a pod and of its containers are, for either driver.
//!
//! ```text
//! cgroupfs   PARENT/CONTAINER               PARENT is what the client names, or wharf/POD
//! systemd    SLICE's/wharf-CONTAINER.scope  SLICE is what the client names, or wharf-POD.slice
//! ```
//!
//! Between `wharf` and POD may be the name of a class of service (`qos.rs`).

use super::cgroup::Cgroup;
use super::error::{PodError, Result};
use super::qos::QosClass;
use std::path::{Component, Path, PathBuf};
use wharf_runtime::cgroup::unit;
use wharf_specs::config::CgroupDriver;

const SLICE: &str = ".slice";
/// What the names of scopes begin with.
const SCOPE_PREFIX: &str = "wharf";
const FIELD: &str = "config.linux.cgroup_parent";

/// Where a node puts the groups of its pods.
#[derive(Debug, Clone, Default)]
pub struct CgroupOptions {
    pub driver: CgroupDriver,
    /// Parent of the groups of pods that name none: relative to each hierarchy's root, or a slice.
    pub parent: String,
}

/// The parent of a pod's containers' groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Relative to each hierarchy's root.
    Directory(PathBuf),
    /// The name of a slice.
    Slice(String),
}

impl Placement {
    /// Of a pod whose client names `parent`, or nothing.
    pub(crate) fn of(options: &CgroupOptions, parent: Option<&str>, class: Option<QosClass>, pod: &str) -> Self {
        match (options.driver, parent) {
            (_, None) => Self::of_class(options, class).below(pod),
            (CgroupDriver::Cgroupfs, Some(parent)) => Self::Directory(parent.trim_start_matches('/').into()),
            // The kubelet writes the slices above too.
            (CgroupDriver::Systemd, Some(parent)) => Self::Slice(last(parent).to_string()),
        }
    }

    /// Of the pods of a class for which no client names a parent.
    pub(crate) fn of_class(options: &CgroupOptions, class: Option<QosClass>) -> Self {
        let node = Self::of_node(options);
        match class.and_then(QosClass::group) {
            Some(group) => node.below(group),
            None => node,
        }
    }

    /// The class of a pod of which nothing but its group is known.
    pub(crate) fn class_of(options: &CgroupOptions, pod: &str) -> Option<QosClass> {
        let is_there = |class: &QosClass| Self::of(options, None, Some(*class), pod).group().exists();
        QosClass::GROUPED.into_iter().find(is_there)
    }

    fn below(self, name: &str) -> Self {
        match self {
            Self::Directory(parent) => Self::Directory(parent.join(name)),
            Self::Slice(slice) => Self::Slice(format!("{}-{name}{SLICE}", stem(&slice))),
        }
    }

    /// Of the pods for which no client names a parent.
    pub(crate) fn of_node(options: &CgroupOptions) -> Self {
        match options.driver {
            CgroupDriver::Cgroupfs => Self::Directory(options.parent.clone().into()),
            CgroupDriver::Systemd => Self::Slice(format!("{}{SLICE}", stem(&options.parent))),
        }
    }

    /// Checks what a client names.
    ///
    /// # Errors
    /// The other driver's form, or a name outside of the hierarchy.
    pub(crate) fn check(options: &CgroupOptions, parent: &str) -> Result<()> {
        let refuse = |reason: String| Err(PodError::invalid(FIELD, reason));
        match options.driver {
            CgroupDriver::Systemd => match unit::directory_of_slice(last(parent)) {
                Ok(_) => Ok(()),
                Err(_) => refuse(format!(
                    "{parent:?} names no slice, such as a-b.slice; this node's cgroup driver is systemd"
                )),
            },
            CgroupDriver::Cgroupfs if parent.ends_with(SLICE) => {
                refuse(format!("{parent:?} has systemd's form; this node's cgroup driver is cgroupfs"))
            }
            CgroupDriver::Cgroupfs => {
                let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::RootDir);
                match Path::new(parent).components().all(plain) && !parent.trim_matches('/').is_empty() {
                    true => Ok(()),
                    false => refuse(format!("{parent:?} is no path below the hierarchy's root")),
                }
            }
        }
    }

    /// `linux.cgroupsPath` of a container (runtime-spec, config-linux.md#cgroups-path).
    pub(crate) fn path_of(&self, container: &str) -> String {
        match self {
            Self::Directory(parent) => format!("/{}/{container}", parent.display()),
            Self::Slice(slice) => format!("{slice}:{SCOPE_PREFIX}:{container}"),
        }
    }

    /// The group of a container.
    pub(crate) fn group_of(&self, container: &str) -> Cgroup {
        match self {
            Self::Directory(parent) => Cgroup::new(parent.join(container)),
            Self::Slice(_) => Cgroup::new(self.directory().join(unit::directory_of_scope(SCOPE_PREFIX, container))),
        }
    }

    /// The group that all of them are in.
    pub(crate) fn group(&self) -> Cgroup {
        Cgroup::new(self.directory())
    }

    /// Takes the group away that all of them were in, where nothing is in it.
    pub(crate) fn remove_if_empty(&self) {
        match self {
            Self::Directory(_) => self.group().remove_if_empty(),
            // To stop a slice is to end all that is in it, whoever's it is.
            Self::Slice(_) if self.group().has_processes() => {}
            Self::Slice(slice) => {
                if let Err(error) = unit::stop(slice) {
                    tracing::warn!(%slice, %error, "stop a slice");
                }
            }
        }
    }

    /// That group's path from the hierarchy's root on, as CNI plugins are told it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/").join(self.directory())
    }

    fn directory(&self) -> PathBuf {
        match self {
            Self::Directory(parent) => parent.clone(),
            // What is kept was checked when it was made.
            Self::Slice(slice) => unit::directory_of_slice(slice).unwrap_or_else(|_| slice.into()),
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn stem(slice: &str) -> &str {
    slice.strip_suffix(SLICE).unwrap_or(slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(driver: CgroupDriver) -> CgroupOptions {
        CgroupOptions { driver, parent: "wharf".into() }
    }

    #[test]
    fn parents_stay_below_the_root_and_have_the_drivers_form() {
        let (cgroupfs, systemd) = (options(CgroupDriver::Cgroupfs), options(CgroupDriver::Systemd));
        assert!(Placement::check(&cgroupfs, "/kubepods/burstable/pod1").is_ok());
        for parent in ["", "/", "../x", "/a/../b", "/kubepods.slice"] {
            assert!(Placement::check(&cgroupfs, parent).is_err(), "{parent}");
        }
        assert!(Placement::check(&systemd, "/kubepods.slice/kubepods-pod1.slice").is_ok());
        for parent in ["", "/", "/kubepods/pod1", "a--b.slice", "kubepods.slice/.."] {
            assert!(Placement::check(&systemd, parent).is_err(), "{parent}");
        }
    }

    #[test]
    fn with_cgroupfs_a_container_is_below_its_pod() {
        let options = options(CgroupDriver::Cgroupfs);
        assert_eq!(Placement::of(&options, Some("/kubepods/pod1"), None, "p").path_of("c"), "/kubepods/pod1/c");
        assert_eq!(Placement::of(&options, None, None, "p").path_of("c"), "/wharf/p/c");
        let of_class = |class| Placement::of(&options, None, Some(class), "p").path_of("c");
        assert_eq!(of_class(QosClass::Guaranteed), "/wharf/p/c");
        assert_eq!(of_class(QosClass::Burstable), "/wharf/burstable/p/c");
        assert_eq!(of_class(QosClass::BestEffort), "/wharf/besteffort/p/c");
    }

    #[test]
    fn with_systemd_a_container_is_a_scope_in_the_slice_of_its_pod() {
        let options = options(CgroupDriver::Systemd);
        let pod = Placement::of(&options, None, None, "p");
        assert_eq!(pod.path_of("c"), "wharf-p.slice:wharf:c");
        assert_eq!(pod.directory(), Path::new("wharf.slice/wharf-p.slice"));
        let burstable = Placement::of(&options, None, Some(QosClass::Burstable), "p");
        assert_eq!(burstable.path_of("c"), "wharf-burstable-p.slice:wharf:c");
        let slices = "wharf.slice/wharf-burstable.slice/wharf-burstable-p.slice";
        assert_eq!(burstable.directory(), Path::new(slices));
        let named = Placement::of(&options, Some("/kubepods.slice/kubepods-pod1.slice"), None, "p");
        assert_eq!(named.path_of("c"), "kubepods-pod1.slice:wharf:c");
        assert_eq!(named.directory(), Path::new("kubepods.slice/kubepods-pod1.slice"));
        assert_eq!(Placement::of_node(&options).directory(), Path::new("wharf.slice"));
    }
}
