//! `wharf ps`: the containers of all pods.

use std::io::{self, Write};
use std::process::ExitCode;

use wharf_images::Store;
use wharf_supervisor::api::kinds::{integer, pod::items, text};

use crate::client::Client;
use crate::container_state::ContainerState;
use crate::get::write_columns;
use crate::target::{self, Target};
use crate::units::{ago, duration_text, seconds_since};
use crate::{NodeArguments, image_store};

/// Digits of an id, and letters of a command, that are shown.
const SHORT_ID: usize = 12;
const SHORT_COMMAND: usize = 20;
const HEADER: [&str; 7] = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Those that do not run too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
}

pub(crate) async fn run(node: &NodeArguments, client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut targets = target::all(client).await?;
    targets.retain(|target| arguments.all || matches!(target.state(), ContainerState::Running { .. }));
    targets.sort_by(|a, b| created(b).cmp(created(a)));
    let id = |target: &Target| cut(target.id(), if arguments.no_trunc { usize::MAX } else { SHORT_ID });
    let mut output = io::stdout().lock();
    if arguments.quiet {
        for target in targets.iter().filter(|target| !target.id().is_empty()) {
            writeln!(output, "{}", id(target))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Says what images run by themselves; the list is worth having without.
    let store = image_store::open(node).ok();
    let mut lines = vec![HEADER.map(str::to_owned).to_vec()];
    for target in &targets {
        let command = command(target, store.as_ref());
        let command = if arguments.no_trunc { command } else { shortened(&command) };
        lines.push(vec![
            id(target),
            text(&target.container, "/image").to_owned(),
            format!("\"{command}\""),
            ago(created(target)),
            status(&target.state(), integer(&target.status, "/lastState/terminated/exitCode")),
            ports(target),
            target.name(),
        ]);
    }
    write_columns(&mut output, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// When the container that there is now was made; the pod's own time where there is none.
fn created(target: &Target) -> &str {
    let times = ["/state/running/startedAt", "/state/terminated/startedAt"].map(|field| text(&target.status, field));
    times.into_iter().find(|time| !time.is_empty()).unwrap_or(text(&target.pod, "/metadata/creationTimestamp"))
}

/// The command line, as the specification and the image's own put it together.
fn command(target: &Target, store: Option<&Store>) -> String {
    let words = |field| -> Vec<String> {
        let words = items(&target.container, field).iter();
        words.map(|word| word.as_str().unwrap_or_default().replace("$$", "$")).collect()
    };
    let (mut command, mut args) = (words("command"), words("args"));
    if command.is_empty() {
        let name = Some(text(&target.status, "/imageID")).filter(|id| !id.is_empty());
        let name = name.unwrap_or(text(&target.container, "/image"));
        let image = store.and_then(|store| store.resolve(name).ok().flatten());
        let config = image.map(|image| image.config).unwrap_or_default();
        command = config.entrypoint;
        if args.is_empty() {
            args = config.cmd;
        }
    }
    command.append(&mut args);
    command.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str, letters: usize) -> String {
    text.chars().take(letters).collect()
}

fn shortened(command: &str) -> String {
    match command.chars().count() {
        ..=SHORT_COMMAND => command.to_owned(),
        _ => cut(command, SHORT_COMMAND - 1) + "…",
    }
}

fn status(state: &ContainerState, last_code: i64) -> String {
    match state {
        ContainerState::Running { started_at } => match seconds_since(started_at) {
            Some(seconds) => format!("Up {}", duration_text(seconds)),
            None => "Up".into(),
        },
        ContainerState::Exited { code, finished_at } => format!("Exited ({code}) {}", ago(finished_at)),
        ContainerState::Waiting { reason, .. } if reason == "CrashLoopBackOff" => format!("Restarting ({last_code})"),
        ContainerState::Waiting { reason, .. } if reason.is_empty() => "Created".into(),
        ContainerState::Waiting { reason, .. } => reason.clone(),
    }
}

fn ports(target: &Target) -> String {
    let ports = items(&target.container, "ports").iter().map(|port| {
        let inside = format!("{}/{}", integer(port, "/containerPort"), text(port, "/protocol").to_lowercase());
        let address = match text(port, "/hostIP") {
            "" => "0.0.0.0".to_owned(),
            address if address.contains(':') => format!("[{address}]"),
            address => address.to_owned(),
        };
        match integer(port, "/hostPort") {
            0 => inside,
            host => format!("{address}:{host}->{inside}"),
        }
    });
    ports.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_are_worded_as_docker_words_them() {
        let waiting = |reason: &str| ContainerState::Waiting { reason: reason.into(), message: String::new() };
        let ended = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(180);
        let exited = ContainerState::Exited { code: 3, finished_at: ended.to_string() };
        assert_eq!(status(&exited, 0), "Exited (3) 3 minutes ago");
        assert_eq!(status(&ContainerState::Running { started_at: ended.to_string() }, 0), "Up 3 minutes");
        assert_eq!(status(&waiting("CrashLoopBackOff"), 7), "Restarting (7)");
        assert_eq!(status(&waiting("ErrImagePull"), 0), "ErrImagePull");
        assert_eq!(status(&waiting(""), 0), "Created");
    }

    #[test]
    fn ports_show_where_they_are_served() {
        let targets =
            target::tests::pods(&[json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "protocol": "TCP"},
                {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "::1"},
                {"containerPort": 81, "hostPort": 8081, "protocol": "TCP"},
            ]}]}})]);
        assert_eq!(ports(&targets[0]), "80/tcp, [::1]:5353->53/udp, 0.0.0.0:8081->81/tcp");
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(shortened("sleep 1000"), "sleep 1000");
        assert_eq!(shortened("sh -c 'while true; do date; done'"), "sh -c 'while true; …");
    }
}
