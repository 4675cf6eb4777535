//! `skopeo copy` into a layout, `umoci unpack` out of it.

use std::rc::Rc;

use super::super::registry::Registry;
use super::synced;
use crate::comparison::Contestant;
use crate::filesystem::FileSystem;
use crate::measure::run;
use crate::peer::Peer;

const NAME: &str = "skopeo+umoci";

pub(in super::super) fn pull(registry: &Rc<Registry>) -> Contestant {
    let programs = Peer::find("skopeo").and_then(|skopeo| Ok((skopeo, Peer::find("umoci")?)));
    let (skopeo, umoci) = match programs {
        Ok(programs) => programs,
        Err(reason) => return Contestant::missing(NAME, reason),
    };
    let version = format!("{}, {}", skopeo.version, umoci.version);
    let registry = registry.clone();
    let run = move || {
        let disk = FileSystem::fresh()?;
        let layout = format!("{}:1", disk.path().join("layout").display());
        let mut copy = skopeo.command();
        copy.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"])
            .arg(format!("docker://{}", registry.reference()))
            .arg(format!("oci:{layout}"));
        let mut unpack = umoci.command();
        unpack.args(["unpack", "--image", &layout]).arg(disk.path().join("bundle"));
        synced(&disk, || Ok(run(&mut copy)?.peak_bytes.max(run(&mut unpack)?.peak_bytes)))
    };
    let command = "skopeo copy docker://REFERENCE oci:DISK/layout:1; umoci unpack --image DISK/layout:1 DISK/bundle";
    Contestant { name: NAME, version, command: command.into(), run: Ok(Box::new(run)) }
}
