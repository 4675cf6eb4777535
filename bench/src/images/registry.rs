//! Debian's docker-registry on a loopback port, with one image.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, bail};

use super::archive::{BenchImage, TAG};
use crate::Context;
use crate::measure::{Daemon, run};
use crate::peer::Peer;

pub(super) struct Registry {
    _daemon: Daemon,
    address: String,
    repository: String,
    reference: String,
}

impl Registry {
    /// Serves the image from a folder that is kept from run to run.
    pub(super) fn serve(context: &Context, image: &BenchImage) -> anyhow::Result<Rc<Self>> {
        let program = Peer::find("docker-registry").map_err(anyhow::Error::msg)?;
        let folder = context.work.join("registry");
        std::fs::create_dir_all(&folder)?;
        let config = tempfile::NamedTempFile::new()?;
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            folder.display()
        );
        std::fs::write(config.path(), text)?;
        let mut serve = program.command();
        serve.arg("serve").arg(config.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Daemon::start(&mut serve)?;
        let mut log = BufReader::new(daemon.child().stderr.take().context("its log")?);
        let mut line = String::new();
        let address = loop {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                bail!("docker-registry ended");
            }
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', ',', '\n']).next().unwrap_or_default().to_owned();
            }
        };
        // It must not block on its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let repository = format!("bench/{}", image.name);
        let reference = format!("{address}/{repository}:{TAG}");
        let source = format!("oci:{}:{TAG}", image.folder.display());
        run(Command::new(context.programs.join("wharf")).args(["cp-image", &source, &format!("docker://{reference}")]))
            .context("push the image")?;
        Ok(Rc::new(Self { _daemon: daemon, address, repository, reference }))
    }

    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    pub(super) fn blob_url(&self, digest: &str) -> String {
        format!("http://{}/v2/{}/blobs/{digest}", self.address, self.repository)
    }
}
