//! Groups below a container's, as `exec --cgroup` names them.

use super::{Cgroup, Error, clean};
use std::path::{Component, PathBuf};

/// A group below the container's: in these hierarchies, or in all of them if no controller is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubGroup {
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

impl SubGroup {
    /// Parses `PATH` or `CONTROLLER[,CONTROLLER]:PATH`.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((controllers, path)) => {
                Self { controllers: controllers.split(',').map(str::to_string).collect(), path: path.into() }
            }
            None => Self { controllers: Vec::new(), path: text.into() },
        }
    }
}

fn has_controller(list: &str, name: &str) -> bool {
    list.split(',').any(|one| one == name)
}

impl Cgroup {
    /// The groups below this one that `places` name; where they name none, this one.
    pub fn below(&self, places: &[SubGroup]) -> Result<Self, Error> {
        let mut paths = self.paths();
        for place in places {
            let inside = |part| matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir);
            if !place.path.components().all(inside) {
                return Err(Error::SubGroup(format!("bad sub cgroup path {:?}", place.path)));
            }
            let inner = clean(&place.path);
            for name in &place.controllers {
                let known = paths.iter().any(|(controllers, _)| has_controller(controllers, name));
                if !known {
                    return Err(Error::SubGroup(format!("unknown controller {name:?} in a cgroup to be joined")));
                }
            }
            let meant = |controllers: &str| {
                place.controllers.is_empty() || place.controllers.iter().any(|name| has_controller(controllers, name))
            };
            for (controllers, directory) in &mut paths {
                if meant(controllers) {
                    *directory = directory.join(&inner);
                }
            }
        }
        Ok(Self::from_paths(paths))
    }
}
