//! `wharf`, the command for people.

mod apply;
mod client;
mod container_state;
mod cp_image;
mod cri;
mod delete;
mod describe;
mod diff;
mod events;
mod exec;
mod get;
mod history;
mod image_store;
mod images;
mod inspect;
mod kubeconfig;
mod leaks;
mod load;
mod logs;
mod progress;
mod ps;
mod pull;
mod push;
mod registry;
mod resource;
mod rollout;
mod run;
mod save;
mod scale;
mod stop;
mod system;
mod target;
mod template;
mod terminal;
mod top;
mod units;
mod watch;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::Client;

/// Runs containers and keeps declared ones running on this node.
#[derive(Parser)]
#[command(name = "wharf", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    #[command(subcommand)]
    command: Command,
}

const DEFAULT_STATE: &str = "/run/wharf";

/// Which node is meant.
#[derive(Args)]
struct NodeArguments {
    /// Directory with the node's sockets
    #[arg(long, global = true, value_name = "RUN", env = "WHARF_STATE", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Directory with the node's images; found through RUN without it
    #[arg(long, global = true, value_name = "DATA", env = "WHARF_ROOT")]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command in a new container
    Run(Box<run::Arguments>),
    /// List containers
    Ps(ps::Arguments),
    /// End containers, which stay with their exit codes
    Stop(stop::StopArguments),
    /// End containers at once
    Kill(stop::KillArguments),
    /// Remove containers
    Rm(stop::RemoveArguments),
    /// Fetch an image from its registry
    Pull(pull::Arguments),
    /// Send an image to a registry
    Push(push::Arguments),
    /// Copy an image between registries, this node, archives and OCI layouts
    CpImage(cp_image::Arguments),
    /// How registries are reached
    Registry(registry::Arguments),
    /// Take images from an archive
    Load(load::Arguments),
    /// Write images into an archive
    Save(save::Arguments),
    /// List images
    Images(images::ListArguments),
    /// Give an image a further name
    Tag(images::TagArguments),
    /// Keep images: neither `rmi` nor a kubelet that needs room removes them
    Pin(images::PinArguments),
    /// Give pinned images free
    Unpin(images::PinArguments),
    /// Remove images
    Rmi(images::RemoveArguments),
    /// Show images as JSON
    Inspect(inspect::Arguments),
    /// Show how an image was made, layer by layer
    History(history::Arguments),
    /// Show what a container has changed, or one image has other than another
    Diff(diff::Arguments),
    /// Make the objects of a manifest be as it says
    Apply(apply::Arguments),
    /// Show objects
    Get(get::Arguments),
    /// Show all of an object for people, with its events
    Describe(describe::Arguments),
    /// Delete objects
    Delete(delete::Arguments),
    /// Set how many replicas run
    Scale(scale::Arguments),
    /// Look after the versions of a Deployment
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Show what pods, or the node, use right now
    Top(top::Arguments),
    /// Show what happened lately
    Events(events::Arguments),
    /// Print what a container wrote
    Logs(logs::Arguments),
    /// Explain a pod: why it restarts, waits or is slow
    Why(why::Arguments),
    /// Run a command in a container
    Exec(exec::ExecArguments),
    /// Connect to a container's own process
    Attach(exec::AttachArguments),
    /// Show what is left on the machine of pods and containers that are gone; exit code 1 if anything is
    Leaks,
    /// Write what other clients need to reach this node over TLS
    Kubeconfig(kubeconfig::Arguments),
    /// Look after the node itself
    System(system::Arguments),
}

/// Where namespaced objects are looked for.
#[derive(Args, Clone)]
struct Namespace {
    /// Namespace of the objects
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run_command(arguments) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let node = &arguments.node;
        let client = Client::new(&node.state)?;
        match arguments.command {
            Command::Run(arguments) => Ok(run::run(node, &client, *arguments).await),
            Command::Ps(arguments) => ps::run(node, &client, arguments).await,
            Command::Stop(arguments) => stop::stop(node, &client, arguments).await,
            Command::Kill(arguments) => stop::kill(node, &client, arguments).await,
            Command::Rm(arguments) => stop::remove(&client, arguments).await,
            Command::Pull(arguments) => pull::run(node, arguments).await,
            Command::Push(arguments) => push::run(node, arguments).await,
            Command::CpImage(arguments) => cp_image::run(node, arguments).await,
            Command::Registry(arguments) => registry::run(&arguments),
            Command::Load(arguments) => load::run(node, arguments).await,
            Command::Save(arguments) => save::run(node, arguments).await,
            Command::Images(arguments) => images::list(node, arguments),
            Command::Tag(arguments) => images::tag(node, arguments),
            Command::Pin(arguments) => images::set_pinned(node, &arguments, true),
            Command::Unpin(arguments) => images::set_pinned(node, &arguments, false),
            Command::Rmi(arguments) => images::remove(node, arguments),
            Command::Inspect(arguments) => inspect::run(node, &arguments),
            Command::History(arguments) => history::run(node, &arguments),
            Command::Diff(arguments) => diff::run(node, &client, &arguments).await,
            Command::Apply(arguments) => apply::run(&client, arguments).await,
            Command::Get(arguments) => get::run(&client, arguments).await,
            Command::Describe(arguments) => describe::run(&client, arguments).await,
            Command::Delete(arguments) => delete::run(&client, arguments).await,
            Command::Scale(arguments) => scale::run(&client, arguments).await,
            Command::Rollout(command) => rollout::run(&client, command).await,
            Command::Top(arguments) => top::run(&client, arguments).await,
            Command::Events(arguments) => events::run(&client, arguments).await,
            Command::Logs(arguments) => logs::run(&client, arguments).await,
            Command::Why(arguments) => why::run(&client, arguments).await,
            Command::Exec(arguments) => exec::exec(&client, arguments).await,
            Command::Attach(arguments) => exec::attach(&client, arguments).await,
            Command::Leaks => leaks::run(node, &client).await,
            Command::Kubeconfig(arguments) => kubeconfig::run(node, &arguments),
            Command::System(arguments) => system::run(node, &client, arguments).await,
        }
    });
    // A blocked read of standard input must not keep the command from ending.
    runtime.shutdown_background();
    code
}

/// `wharf get pods | head -1` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
