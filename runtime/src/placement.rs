//! The control group of a container that is being made: by the runtime before the clone, or by systemd after it.

use crate::cgroup::{Cgroup, CreatedCgroup, Layout, NewScope, Scope, check_annotations, ownership};
use crate::create::CgroupDriver;
use crate::error::{Error, While};
use crate::plan::Plan;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use wharf_specs::id::ContainerId;
use wharf_specs::oci::{LinuxNamespaceType as Kind, Spec};

/// For whom a group is made, and by whom.
pub(crate) struct Wanted<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) spec: &'a Spec,
    pub(crate) driver: CgroupDriver,
    /// See [`crate::CreateRequest::ignore_cgroup_refusals`].
    pub(crate) ignore_refusals: Option<bool>,
}

/// A group, taken back unless it is kept. It must be given up after the child: systemd would wait for that.
pub(crate) struct Placement {
    pub(crate) cgroup: Cgroup,
    layout: Layout,
    scope: Option<Scope>,
    made: Option<CreatedCgroup>,
    privileged: bool,
    /// The caller may set device rules.
    devices: bool,
    /// See [`Cgroup::create`].
    strict: bool,
}

impl Placement {
    /// Finds the place; with the cgroupfs driver the group is made.
    pub(crate) fn prepare(wanted: &Wanted<'_>, plan: &Plan, privileged: bool) -> Result<Self, Error> {
        let layout = Layout::detect()?;
        let (path, id) = (plan.cgroups_path.as_deref(), wanted.id.as_str());
        let strict = !wanted.ignore_refusals.unwrap_or(!privileged);
        let devices = privileged && !plan.namespaces.separate(Kind::User);
        if wanted.driver == CgroupDriver::Systemd {
            if let Some(annotations) = wanted.spec.annotations() {
                check_annotations(annotations)?;
            }
            let user = wanted.ignore_refusals.unwrap_or_else(Scope::needs_user_manager);
            let scope = Scope::of(path, id, user)?;
            let cgroup = scope.locate(&layout)?;
            refuse_foreign_processes(&cgroup, cgroup.path().is_some_and(Path::exists))?;
            return Ok(Self { cgroup, layout, scope: Some(scope), made: None, privileged, devices, strict });
        }
        let mut cgroup = Cgroup::locate(&layout, path, id);
        let made = cgroup.create(strict)?;
        refuse_foreign_processes(&cgroup, made.existed(&cgroup))?;
        Ok(Self { cgroup, layout, scope: None, made: Some(made), privileged, devices, strict })
    }

    /// The groups as the container sees them: where it has none of its own, it stays in the caller's.
    pub(crate) fn seen(&self) -> Vec<(String, PathBuf)> {
        let own = self.cgroup.paths();
        let inherited = Cgroup::of_caller(&self.layout).paths();
        let has = |controllers: &str| own.iter().any(|(known, _)| known == controllers);
        let rest: Vec<_> = inherited.into_iter().filter(|(controllers, _)| !has(controllers)).collect();
        own.into_iter().chain(rest).collect()
    }

    /// What is missing to end the container as a whole, if anything is.
    pub(crate) fn warning(&self, plan: &Plan) -> Option<String> {
        let unbounded = self.cgroup.paths().is_empty() && !plan.namespaces.separate(Kind::Pid);
        unbounded.then(|| {
            "the container has neither a control group nor a pid namespace of its own. Such configuration is strongly \
             discouraged: its processes cannot all be found and killed"
                .into()
        })
    }

    /// The group to clone into on cgroup v2, so that no moment is spent outside of the limits. With systemd there is
    /// none yet; the child waits.
    pub(crate) fn target(&self) -> Result<Option<OwnedFd>, Error> {
        if self.scope.is_some() {
            return Ok(None);
        }
        self.cgroup.open_unified().during("open cgroup", "")
    }

    /// Takes the child in. With the systemd driver the group is made now, with its limits.
    pub(crate) fn admit(&mut self, pid: i32, id: &str, spec: &Spec, plan: &Plan) -> Result<(), Error> {
        if let Some(scope) = &self.scope {
            let none = HashMap::new();
            let new = NewScope {
                pid,
                id,
                resources: plan.resources.as_ref(),
                annotations: spec.annotations().as_ref().unwrap_or(&none),
                privileged: self.devices,
                strict: self.strict,
            };
            scope.start(&mut self.cgroup, &new, &mut self.made)?;
        }
        self.cgroup.add(pid, false)?;
        // A user's groups are the user's already, and cannot be given to others.
        match ownership::owner(spec).filter(|_| self.privileged) {
            Some(user) => Ok(ownership::give(&self.cgroup, user)?),
            None => Ok(()),
        }
    }

    /// Sets device rules that do not come all at once, if systemd has not. The child waits: it needs devices itself.
    pub(crate) fn list_devices(&self, plan: &Plan) -> Result<(), Error> {
        match self.scope {
            None if self.devices && self.cgroup.has_device_lists() => {
                Ok(self.cgroup.apply_devices(plan.resources.as_ref())?)
            }
            _ => Ok(()),
        }
    }

    /// Sets the other limits, if systemd has not. The child makes its mounts meanwhile: they are there before any program
    /// of the container's or of a hook's runs.
    pub(crate) fn limit(&self, plan: &Plan) -> Result<(), Error> {
        let devices = self.devices && !self.cgroup.has_device_lists();
        match self.scope {
            None => Ok(self.cgroup.apply(plan.resources.as_ref(), devices)?),
            Some(_) => Ok(()),
        }
    }

    /// Takes the group back with whatever has been made in it since.
    pub(crate) fn abandon(self) {
        // Nobody else's processes are in it: those would have been refused.
        let _ = self.cgroup.kill_all();
        if self.scope.is_none() && self.made.as_ref().is_some_and(|made| !made.existed(&self.cgroup)) {
            let _ = self.cgroup.remove();
        }
    }

    /// The container exists: its group is removed with it.
    pub(crate) fn keep(self) -> (Cgroup, Option<Scope>) {
        self.made.into_iter().for_each(CreatedCgroup::keep);
        (self.cgroup, self.scope)
    }
}

/// A group that was there before and has processes belongs to someone else: the limits of two would mix.
pub(crate) fn refuse_foreign_processes(cgroup: &Cgroup, existed: bool) -> Result<(), Error> {
    // In whichever hierarchy it is: the init would stop there before it has said a word.
    if cgroup.is_frozen() {
        let path = cgroup.path().unwrap_or(Path::new("")).display().to_string();
        return Err(Error::Unsupported(format!("container's cgroup unexpectedly frozen: {path} was there before")));
    }
    if !existed {
        return Ok(());
    }
    match cgroup.pids() {
        Ok(pids) if !pids.is_empty() => {
            let path = cgroup.path().unwrap_or(Path::new("")).display().to_string();
            Err(Error::Unsupported(format!(
                "container's cgroup is not empty: {} process(es) found in {path}",
                pids.len()
            )))
        }
        _ => Ok(()),
    }
}
