//! What any machine can do: fetch, decompress and extract by a pipe, two layers at a time, nothing verified.

use std::process::Command;
use std::rc::Rc;

use super::super::PIPE;
use super::super::archive::BenchImage;
use super::super::registry::Registry;
use super::synced;
use crate::comparison::Contestant;
use crate::filesystem::FileSystem;
use crate::measure::run;
use crate::peer::Peer;

pub(in super::super) fn pull(registry: &Rc<Registry>, image: &BenchImage) -> Contestant {
    let programs: Result<Vec<Peer>, String> = ["curl", "zcat", "tar", "xargs"].into_iter().map(Peer::find).collect();
    let layers = image.layers().map_err(|error| error.to_string());
    let (programs, layers) = match programs.and_then(|programs| Ok((programs, layers?))) {
        Ok(both) => both,
        Err(reason) => return Contestant::missing(PIPE, reason),
    };
    let urls: Vec<String> = layers.iter().map(|digest| registry.blob_url(digest)).collect();
    let versions: Vec<&str> = programs[..3].iter().map(|program| &*program.version).collect();
    let version = versions.join(", ");
    let registry = registry.clone();
    let run = move || {
        let _serving = &registry;
        let disk = FileSystem::fresh()?;
        let mut words = String::new();
        for (number, url) in urls.iter().enumerate() {
            let folder = disk.path().join(number.to_string());
            std::fs::create_dir(&folder)?;
            words += &format!("{url} {}\n", folder.display());
        }
        let list = disk.path().join("list");
        std::fs::write(&list, words)?;
        let mut command = Command::new("xargs");
        let pipe = "set -o pipefail; curl -sSf \"$1\" | zcat | tar -x -C \"$2\"";
        command.arg("-a").arg(list).args(["-P", "2", "-n", "2", "bash", "-c", pipe, "pipe"]);
        synced(&disk, || Ok(run(&mut command)?.peak_bytes))
    };
    let command = "curl URL | zcat | tar -x -C DISK/N, two at a time".into();
    Contestant { name: PIPE, version, command, run: Ok(Box::new(run)) }
}
