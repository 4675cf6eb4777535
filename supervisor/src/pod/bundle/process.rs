//! The process: arguments, environment, working directory, user.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf_images::{Image, ImageConfig, RootFs};

use super::{Input, resources};
use crate::pod::error::{PodError, Result, chain};
use crate::pod::files;
use crate::pod::record::ContainerUser;
use crate::pod::spec::ContainerConfig;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn compile(
    input: &Input,
    image: &Image,
    rootfs: &RootFs,
    capabilities: &BTreeSet<String>,
    ambient: &BTreeSet<String>,
) -> Result<(Value, ContainerUser)> {
    let config = &input.config;
    let account = account(config, &image.config, rootfs)?;
    let home = account.home.to_string_lossy();
    let from_image = account.additional_gids.iter().filter(|_| !config.security.only_named_groups);
    let mut groups: BTreeSet<u32> = from_image.copied().collect();
    groups.extend(&config.security.supplemental_groups);
    let gid = config.security.run_as_group.unwrap_or(account.gid);
    // What a group is denied, a process must not get by giving it up as its own (CVE-2022-36109).
    groups.insert(gid);
    let user = ContainerUser { uid: account.uid, gid, groups: groups.into_iter().collect() };

    let cwd = [config.working_dir.as_str(), image.config.working_dir.as_str(), "/"]
        .into_iter()
        .find(|directory| !directory.is_empty())
        .unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(PodError::invalid("config.working_dir", format!("{cwd:?} is not absolute")));
    }
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": arguments(config, &image.config)?,
        "env": environment(config, &image.config, &files::hostname(&input.sandbox), &home),
        "cwd": cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": ambient,
            "ambient": ambient,
        },
        "noNewPrivileges": config.security.no_new_privs,
    });
    if let Some(score) = resources::oom_score(config.resources.oom_score_adj) {
        process["oomScoreAdj"] = json!(score);
    }
    if let Some(profile) = &config.security.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    Ok((process, user))
}

/// Whom the container runs as: what the request says before what the image says.
fn account(config: &ContainerConfig, image: &ImageConfig, rootfs: &RootFs) -> Result<wharf_images::User> {
    let security = &config.security;
    let (field, user) = match security.run_as_user {
        Some(uid) => ("config.linux.security_context.run_as_user", uid.to_string()),
        None if !security.run_as_username.is_empty() => {
            ("config.linux.security_context.run_as_username", security.run_as_username.clone())
        }
        None => ("image user", image.user.clone()),
    };
    wharf_images::user::resolve(rootfs, &user).map_err(|error| PodError::invalid(field, chain(&error)))
}

/// `command` replaces the image's entrypoint and with it its cmd; `args` replaces the cmd.
pub(super) fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let (first, rest) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let arguments: Vec<String> = first.iter().chain(rest).cloned().collect();
    if arguments.first().is_none_or(String::is_empty) {
        return Err(PodError::invalid("config.command", "is empty, and the image names no command"));
    }
    Ok(arguments)
}

/// Later ones replace earlier ones of the same name, in place.
fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str, home: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    env.push(("HOSTNAME".into(), hostname.into()));
    env.push(("HOME".into(), home.into()));
    if config.tty {
        env.push(("TERM".into(), "xterm".into()));
    }
    let from_image = image.env.iter().filter_map(|entry| entry.split_once('='));
    let from_image = from_image.map(|(name, value)| (name.to_string(), value.to_string()));
    for (name, value) in from_image.chain(config.env.iter().cloned()) {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
