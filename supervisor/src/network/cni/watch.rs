//! The folder's configuration at any time: read anew when the folder changes.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::watch;

use super::folder::{self, Configuration};

pub(super) struct Watcher {
    current: watch::Receiver<Arc<Configuration>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Watcher {
    /// Never reads anything: there is no configuration.
    pub(super) fn idle() -> Self {
        Self { current: watch::channel(Arc::new(Configuration::Absent)).1, task: None }
    }

    /// Reads the folder now, and whenever it changes from here on.
    pub(super) fn start(folder: &Path) -> Self {
        // Watched before it is read: what changes in between is told.
        let changes = Changes::of(folder);
        let first = folder::read(folder);
        tell(&first);
        let (sender, current) = watch::channel(Arc::new(first));
        let task = tokio::spawn(follow(folder.into(), changes, sender));
        Self { current, task: Some(task) }
    }

    pub(super) fn configuration(&self) -> Arc<Configuration> {
        self.current.borrow().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn follow(folder: PathBuf, changes: io::Result<Changes>, sender: watch::Sender<Arc<Configuration>>) {
    let mut changes = changes;
    loop {
        match &mut changes {
            Ok(changes) => changes.next().await,
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "watch the CNI configuration: it stays as it is");
                return;
            }
        }
        // Anew, as folders that were made or moved have to be watched too.
        changes = Changes::of(&folder);
        let now = folder::read(&folder);
        if **sender.borrow() != now {
            tell(&now);
            sender.send_replace(Arc::new(now));
        }
    }
}

fn tell(configuration: &Configuration) {
    let refused = match configuration {
        Configuration::Absent => return tracing::info!("no CNI configuration"),
        Configuration::Invalid { refused } => refused,
        Configuration::Valid { file, list, refused } => {
            tracing::info!(network = %list.name, file = %file.display(), "CNI configuration");
            refused
        }
    };
    for reason in refused {
        tracing::warn!(reason, "CNI configuration refused");
    }
}

/// Complete files only: written and closed, moved in or out, or gone; and the folder itself.
const FOLDER_MASK: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::CREATE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF);

/// Where the folder is to be made.
const PARENT_MASK: WatchMask =
    WatchMask::CREATE.union(WatchMask::MOVED_TO).union(WatchMask::DELETE_SELF).union(WatchMask::MOVE_SELF);

/// Changes of the folder and of the folders of plugins in it; of the nearest one above where there is none.
struct Changes {
    events: EventStream<[u8; 4096]>,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

impl Changes {
    fn of(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut paths = HashMap::new();
        let mut add = |path: &Path, mask| match inotify.watches().add(path, mask) {
            Ok(watch) => {
                paths.insert(watch, path.to_path_buf());
                Ok(())
            }
            // It went meanwhile; the next look finds the one above.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        loop {
            let nearest = nearest(folder);
            add(nearest, if nearest == folder { FOLDER_MASK } else { PARENT_MASK })?;
            // Made between the look and the watch, it would go unnoticed.
            if self::nearest(folder) == nearest {
                break;
            }
        }
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                add(&entry.path(), FOLDER_MASK)?;
            }
        }
        Ok(Self { events: inotify.into_event_stream([0; 4096])?, paths })
    }

    /// Returns when something may have changed.
    async fn next(&mut self) {
        loop {
            match self.events.next().await {
                Some(Ok(event)) if self.is_unfinished(&event) => {}
                _ => return,
            }
        }
    }

    /// A file that was made just now is told of again once it is written; a link, a folder or a second name is not.
    fn is_unfinished(&self, event: &Event<std::ffi::OsString>) -> bool {
        let path = self.paths.get(&event.wd).zip(event.name.as_ref()).map(|(folder, name)| folder.join(name));
        event.mask.contains(EventMask::CREATE)
            && path.is_some_and(|path| path.symlink_metadata().is_ok_and(|file| file.is_file() && file.nlink() == 1))
    }
}

/// The folder, or the first one above it that is there.
fn nearest(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "NAME", "type": "bridge"}"#;

    /// Waits until the folder's network is the one named, or none.
    async fn becomes(watcher: &mut Watcher, wanted: Option<&str>) {
        let is = |configuration: &Arc<Configuration>| match &**configuration {
            Configuration::Valid { list, .. } => wanted == Some(list.name.as_str()),
            Configuration::Absent => wanted.is_none(),
            Configuration::Invalid { .. } => false,
        };
        let waiting = watcher.current.wait_for(is);
        tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await.expect("no such change").unwrap();
    }

    #[tokio::test]
    async fn every_way_of_changing_the_folder_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cni/net.d");
        let mut watcher = Watcher::start(&folder);
        becomes(&mut watcher, None).await;
        let put =
            |path: &str, name: &str| std::fs::write(dir.path().join(path), NETWORK.replace("NAME", name)).unwrap();

        std::fs::create_dir_all(&folder).unwrap();
        put("cni/net.d/5.conf", "written");
        becomes(&mut watcher, Some("written")).await;
        put("aside", "moved");
        std::fs::rename(dir.path().join("aside"), folder.join("4.conf")).unwrap();
        becomes(&mut watcher, Some("moved")).await;
        put("aside", "linked");
        std::os::unix::fs::symlink(dir.path().join("aside"), folder.join("3.conf")).unwrap();
        becomes(&mut watcher, Some("linked")).await;
        std::fs::remove_file(folder.join("3.conf")).unwrap();
        becomes(&mut watcher, Some("moved")).await;

        // A list without plugins counts as soon as its folder has some.
        std::fs::write(folder.join("1.conflist"), r#"{"cniVersion": "1.0.0", "name": "pods"}"#).unwrap();
        std::fs::create_dir(folder.join("pods")).unwrap();
        std::fs::write(folder.join("pods/a.conf"), r#"{"type": "a"}"#).unwrap();
        becomes(&mut watcher, Some("pods")).await;
        std::fs::remove_file(folder.join("pods/a.conf")).unwrap();
        becomes(&mut watcher, Some("moved")).await;

        std::fs::rename(&folder, dir.path().join("cni/away")).unwrap();
        becomes(&mut watcher, None).await;
        std::fs::rename(dir.path().join("cni/away"), &folder).unwrap();
        becomes(&mut watcher, Some("moved")).await;
    }
}
