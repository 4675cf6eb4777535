//! `wharf pull`, without a daemon.

use std::process::Command;
use std::rc::Rc;

use super::super::OURS;
use super::super::registry::Registry;
use super::synced;
use crate::Context;
use crate::comparison::Contestant;
use crate::filesystem::FileSystem;
use crate::measure::{Taken, run};

/// Folder of the store, on the fresh file system.
pub(in super::super) const ROOT: &str = "data";

pub(in super::super) fn version(context: &Context) -> String {
    let output = Command::new(context.programs.join("wharf")).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

pub(in super::super) fn pull(context: &Context, registry: &Rc<Registry>) -> Contestant {
    let (programs, registry) = (context.programs.join("wharf"), registry.clone());
    let run = move || {
        let disk = FileSystem::fresh()?;
        let mut command = command(Command::new(&programs), &registry, &disk);
        synced(&disk, || Ok(run(&mut command)?.peak_bytes))
    };
    contestant(context, Box::new(run))
}

pub(in super::super) fn pull_again(context: &Context, registry: &Rc<Registry>) -> anyhow::Result<Contestant> {
    let disk = FileSystem::fresh()?;
    pull_into(context, registry, &disk)?;
    let (program, registry) = (context.programs.join("wharf"), registry.clone());
    let run = move || Ok(run(&mut command(Command::new(&program), &registry, &disk))?.sample());
    Ok(contestant(context, Box::new(run)))
}

pub(in super::super) fn pull_into(context: &Context, registry: &Registry, disk: &FileSystem) -> anyhow::Result<Taken> {
    run(&mut command(Command::new(context.programs.join("wharf")), registry, disk))
}

fn command(mut wharf: Command, registry: &Registry, disk: &FileSystem) -> Command {
    wharf.arg("--root").arg(disk.path().join(ROOT)).args(["pull", "-q", registry.reference()]);
    wharf
}

fn contestant(context: &Context, run: Box<dyn FnMut() -> anyhow::Result<crate::comparison::Sample>>) -> Contestant {
    let command = "wharf --root DISK/data pull -q REFERENCE".into();
    Contestant { name: OURS, version: version(context), command, run: Ok(run) }
}
