//! `wharf run`: a pod with one container, and the person's terminal in front of it.

mod flags;
mod foreground;
mod pod_object;

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use serde_json::Value;
use wharf_images::{Image, Reference, Store};
use wharf_supervisor::api::kinds::{pod, pod::items, text};

use crate::client::{Client, is_conflict, path};
use crate::pull::{self, RegistryArguments};
use crate::{NodeArguments, image_store};
use flags::Published;
pub(crate) use foreground::remove_pod;
pub(crate) use pod_object::RUN_LABEL;
use pod_object::{Identity, Request, generated_name};

/// Namespace of the pods that `wharf run` makes.
pub(crate) const NAMESPACE: &str = "default";
/// docker's code for a run that did not come to a process.
const REFUSED: u8 = 125;
/// Digits that tell generated names apart.
const RANDOM_DIGITS: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Image, and the command to run in place of its own
    #[arg(value_names = ["IMAGE", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// The process has a terminal
    #[arg(short, long)]
    tty: bool,
    /// Print the pod's name and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Remove the pod when its process has ended
    #[arg(long)]
    rm: bool,
    /// Name of the pod; made up from the image's without it
    #[arg(long)]
    name: Option<String>,
    /// Set a variable; a bare NAME passes on the one here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Mount a directory or file of the node, or an empty directory
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro]")]
    volume: Vec<String>,
    /// Serve a port of the container on the node
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]CONTAINER[/udp]")]
    publish: Vec<String>,
    /// Most memory it may have: 64m, 1g
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Most CPU time it may have: 0.5, 2
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Whose rights the process has
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Where the process starts
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// A network of its own, or the node's
    #[arg(long, value_enum, default_value = "bridge")]
    network: Network,
    /// All capabilities and devices of the node
    #[arg(long)]
    privileged: bool,
    /// No writing to the image's files
    #[arg(long)]
    read_only: bool,
    /// What happens when the process ends
    #[arg(long, value_enum, default_value = "no")]
    restart: Restart,
    /// Program to run in place of the image's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// When the image is pulled
    #[arg(long, value_enum, default_value = "missing")]
    pull: PullPolicy,
    /// Host name of the container; its pod's name without it
    #[arg(long)]
    hostname: Option<String>,
    /// Give a capability more
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    #[command(flatten)]
    registry: RegistryArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    Bridge,
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Restart {
    No,
    OnFailure,
    Always,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PullPolicy {
    Missing,
    Always,
    Never,
}

impl Arguments {
    fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl Restart {
    /// As a pod's specification has it.
    fn policy(self) -> &'static str {
        match self {
            Self::No => "Never",
            Self::OnFailure => "OnFailure",
            Self::Always => "Always",
        }
    }
}

/// Gives back the process's exit code, as docker does; its own is 125.
pub(crate) async fn run(node: &NodeArguments, client: &Client, arguments: Arguments) -> ExitCode {
    match create_and_follow(node, client, &arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(error) if crate::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf: {error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

async fn create_and_follow(node: &NodeArguments, client: &Client, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut request = Request::parse(arguments)?;
    if arguments.interactive && arguments.tty && !arguments.detach && !crate::terminal::is_interactive() {
        bail!("--interactive --tty: standard input and output are not a terminal");
    }
    // Asked before an image is pulled for nothing.
    let pods = client.get(&path(&pod::KIND, None, None)?).await?;
    let store = image_store::open_with(node, arguments.registry.store_options()?)?;
    let image = image(&store, arguments).await?;
    let identity = arguments.user.as_deref().map(|user| identity(&store, &image, user)).transpose()?;
    choose_ports(&mut request.published, &pods)?;
    let name = arguments.name.clone().unwrap_or_else(|| generated_name(arguments.image(), &random_digits()));
    let object = request.pod(arguments, &name, identity.as_ref());
    let created = client.create(&path(&pod::KIND, Some(NAMESPACE), None)?, &object).await;
    let created = created.map_err(|error| match is_conflict(&error) {
        true => anyhow!("the name {name:?} is in use: remove that pod (`wharf rm {name}`), or choose another --name"),
        false => error,
    })?;
    let uid = text(&created, "/metadata/uid");
    foreground::follow(node, client, arguments, &name, uid).await
}

/// The image in the store, pulled as the policy wants it.
async fn image(store: &Store, arguments: &Arguments) -> anyhow::Result<Image> {
    let name = arguments.image();
    let present = match arguments.pull {
        PullPolicy::Always => None,
        PullPolicy::Missing | PullPolicy::Never => store.resolve(name)?,
    };
    match present {
        Some(image) => Ok(image),
        None if arguments.pull == PullPolicy::Never => bail!("image `{name}`: not in the store, and --pull is never"),
        None => {
            let reference: Reference = name.parse()?;
            pull::pull(store, &reference, arguments.registry.options()?, false).await
        }
    }
}

/// Looks a user up in the image's own accounts.
fn identity(store: &Store, image: &Image, user: &str) -> anyhow::Result<Identity> {
    let found = wharf_images::user::resolve_in_image(store, image, user).context("--user")?;
    Ok(Identity { uid: found.uid, gid: found.gid, additional_gids: found.additional_gids })
}

/// Gives every port that shall have any free one of the node a number that no other pod has.
fn choose_ports(published: &mut [Published], pods: &Value) -> anyhow::Result<()> {
    let containers = items(pods, "items").iter().flat_map(|pod| items(&pod["spec"], "containers"));
    let ports = containers.flat_map(|container| items(container, "ports"));
    let taken: Vec<u64> = ports.filter_map(|port| port["hostPort"].as_u64()).collect();
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for port in published.iter_mut().filter(|port| port.host.is_none()) {
        port.host = Some(loop {
            let listener = TcpListener::bind("0.0.0.0:0").context("find a free port")?;
            let number = listener.local_addr().context("find a free port")?.port();
            held.push(listener);
            if !taken.contains(&number.into()) {
                break number;
            }
        });
    }
    Ok(())
}

fn random_digits() -> String {
    let mut digits = uuid::Uuid::new_v4().simple().to_string();
    digits.truncate(RANDOM_DIGITS);
    digits
}
