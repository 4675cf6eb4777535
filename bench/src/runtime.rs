//! OCI runtimes, and the floor beneath them: the kernel's own time for the same container.

mod bundle;
mod cgroups;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
use crate::measure;
use crate::peer::Peer;
use bundle::Bundles;
use cgroups::UnifiedOnly;

const OURS: &str = "runw";
const FLOOR: &str = "floor";
const PEERS: [&str; 2] = ["crun", "runc"];
/// Containers at a time.
const TOGETHER: usize = 8;

const CONTAINER: &str = "docker's default container (all namespaces but user, its mounts, masked paths, capabilities and \
                         seccomp profile) with a static `true`";

/// What the contestants share, kept until the last of them is done.
struct Ground {
    bundles: Bundles,
    floor: PathBuf,
    /// Before the others: only there are peers that refuse hybrid hosts.
    unified: UnifiedOnly,
}

/// A runtime with runc's command line.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    ground: Rc<Ground>,
    caller: Caller,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Root,
    /// [`bundle::USER`].
    User,
}

impl Ground {
    fn make() -> anyhow::Result<Rc<Self>> {
        let floor = std::env::current_exe()?.with_file_name("wharf-bench-floor");
        if !floor.is_file() {
            bail!("`{}` is not there", floor.display());
        }
        let unified = UnifiedOnly::enter()?;
        Ok(Rc::new(Self { bundles: Bundles::make(unified.has_controllers())?, floor, unified }))
    }

    fn what(&self, job: &str) -> String {
        let limits = match self.unified.has_controllers() {
            true => "with limits of memory, processor and processes",
            false => "without limits, as this machine's cgroup v2 has no controllers for them",
        };
        format!("{job} {CONTAINER}, {limits}, under cgroup v2 alone.")
    }
}

impl Runtime {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let bundles = &self.ground.bundles;
        let state = match self.caller {
            Caller::Root => bundles.state(self.name),
            Caller::User => {
                command.uid(bundle::USER).gid(bundle::USER);
                bundles.state_of_user(self.name)
            }
        };
        command.arg("--root").arg(state).args(arguments);
        command
    }

    /// The bundle of which the caller may make a container that runs `true`.
    fn bundle_of_true(&self) -> &'static str {
        match self.caller {
            Caller::Root => "true",
            Caller::User => bundle::ROOTLESS,
        }
    }

    /// As a control group is named after it, each has its own.
    fn id(&self) -> String {
        format!("wharf-bench-{}", self.name)
    }

    /// Takes away what a run that failed has left; there may be nothing.
    fn forget(&self) {
        let _ = self.command(&["delete", "--force", &self.id()]).output();
        let _ = std::fs::remove_dir(Path::new(cgroups::ROOT).join(self.id()));
    }

    /// Of a command that takes a bundle.
    fn with_bundle(&self, verb: &str, program: &str, id: &str) -> Command {
        let bundle = self.ground.bundles.bundle(program);
        let mut command = self.command(&[verb, "--bundle"]);
        command.arg(bundle).arg(id);
        command
    }
}

/// Runs it, and says how long that took. Nothing is read from what it writes: a container keeps the descriptors.
fn timed(commands: &mut [Command]) -> anyhow::Result<Sample> {
    let begin = Instant::now();
    for command in commands {
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("start {command:?}"))?;
        if !status.success() {
            bail!("{} failed, {status}: it said why above", command.get_program().display());
        }
    }
    Ok(Sample::from([(Metric::Time, begin.elapsed().as_secs_f64())]))
}

type Job = fn(&Rc<Runtime>) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<Sample>>>;

/// Ours and the peers at `job`.
fn contestants(context: &Context, ground: &Rc<Ground>, command: &str, job: Job) -> anyhow::Result<Vec<Contestant>> {
    contestants_of(Caller::Root, context, ground, command, job)
}

fn contestants_of(
    caller: Caller,
    context: &Context,
    ground: &Rc<Ground>,
    command: &str,
    job: Job,
) -> anyhow::Result<Vec<Contestant>> {
    let ours = context.programs.join(OURS);
    let mut found = vec![(OURS, Ok(Peer { version: "runw of this tree".into(), path: ours }))];
    found.extend(PEERS.map(|name| (name, Peer::find(name))));
    let mut contestants = Vec::new();
    for (name, peer) in found {
        contestants.push(match peer {
            Err(reason) => Contestant::missing(name, reason),
            Ok(peer) => {
                let runtime = Rc::new(Runtime { name, program: peer.path, ground: Rc::clone(ground), caller });
                match timed(&mut [runtime.with_bundle("run", runtime.bundle_of_true(), &runtime.id())]) {
                    // What a peer cannot do here, it is not measured at.
                    Err(error) if name != OURS => {
                        runtime.forget();
                        Contestant::missing(name, format!("{error:#}"))
                    }
                    trial => {
                        trial?;
                        let command = format!("{name} {command}");
                        Contestant { name, version: peer.version, command, run: Ok(job(&runtime)?) }
                    }
                }
            }
        });
    }
    Ok(contestants)
}

fn floor(ground: &Rc<Ground>, count: usize) -> Contestant {
    let ground = Rc::clone(ground);
    let run = move || {
        let mut commands: Vec<Command> = (0..count)
            .map(|number| {
                let mut command = Command::new(&ground.floor);
                command
                    .arg(ground.bundles.rootfs())
                    .arg(Path::new(cgroups::ROOT).join(format!("wharf-bench-{number}")));
                command.arg(ground.bundles.filter()).arg("/bin/true");
                command
            })
            .collect();
        together(&mut commands)
    };
    Contestant {
        name: FLOOR,
        version: "the bare system calls".into(),
        command: "wharf-bench-floor ROOTFS CGROUP FILTER /bin/true".into(),
        run: Ok(Box::new(run)),
    }
}

/// Starts all at once, and waits for the last.
fn together(commands: &mut [Command]) -> anyhow::Result<Sample> {
    let begin = Instant::now();
    let mut children = Vec::new();
    for command in commands {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        children.push(child.with_context(|| format!("start {command:?}"))?);
    }
    let mut failed = None;
    for mut child in children {
        let status = child.wait()?;
        failed = failed.or(Some(status).filter(|status| !status.success()));
    }
    match failed {
        None => Ok(Sample::from([(Metric::Time, begin.elapsed().as_secs_f64())])),
        Some(status) => bail!("one of them ended with {status}"),
    }
}

fn bounds(with_floor: bool) -> Vec<Bound> {
    let bound = |times, of| Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Times(times, of) };
    let mut bounds = vec![bound(0.5, &["crun"][..]), bound(0.2, &["runc"])];
    bounds.extend(with_floor.then(|| bound(1.5, &[FLOOR])));
    bounds
}

/// A whole container: made, run, waited for and removed by one command.
pub(crate) fn run(context: &Context) -> anyhow::Result<Comparison> {
    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let runtime = Rc::clone(runtime);
        Ok(Box::new(move || timed(&mut [runtime.with_bundle("run", "true", &runtime.id())])))
    };
    let mut contestants = contestants(context, &ground, "run --bundle BUNDLE ID", job)?;
    contestants.push(floor(&ground, 1));
    Ok(Comparison { what: ground.what("Run"), contestants, bounds: bounds(true), rounds: 100, warm_up: 10 })
}

/// The same for a user who is nobody to the machine: in a user namespace, without control groups.
pub(crate) fn rootless(context: &Context) -> anyhow::Result<Comparison> {
    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let runtime = Rc::clone(runtime);
        Ok(Box::new(move || timed(&mut [runtime.with_bundle("run", bundle::ROOTLESS, &runtime.id())])))
    };
    let contestants = contestants_of(Caller::User, context, &ground, "run --bundle BUNDLE ID", job)?;
    Ok(Comparison {
        what: format!("Run, as a user without any right and in a user namespace, {CONTAINER}, without limits."),
        contestants,
        bounds: bounds(false),
        rounds: 60,
        warm_up: 6,
    })
}

/// Several whole containers at a time.
pub(crate) fn eight(context: &Context) -> anyhow::Result<Comparison> {
    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let runtime = Rc::clone(runtime);
        Ok(Box::new(move || {
            let ids = (0..TOGETHER).map(|number| format!("{}-{number}", runtime.id()));
            let mut commands: Vec<Command> = ids.map(|id| runtime.with_bundle("run", "true", &id)).collect();
            together(&mut commands)
        }))
    };
    let mut contestants = contestants(context, &ground, "run --bundle BUNDLE ID, eight at once", job)?;
    contestants.push(floor(&ground, TOGETHER));
    Ok(Comparison {
        what: ground.what("Run, eight at a time,"),
        contestants,
        bounds: bounds(true),
        rounds: 40,
        warm_up: 4,
    })
}

/// The steps of an engine: create, start, delete.
pub(crate) fn steps(context: &Context) -> anyhow::Result<Comparison> {
    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let runtime = Rc::clone(runtime);
        Ok(Box::new(move || {
            let id = runtime.id();
            let create = runtime.with_bundle("create", "true", &id);
            timed(&mut [create, runtime.command(&["start", &id]), runtime.command(&["delete", "--force", &id])])
        }))
    };
    let contestants = contestants(context, &ground, "create; start; delete --force", job)?;
    Ok(Comparison {
        what: ground.what("Create, start and delete"),
        contestants,
        bounds: bounds(false),
        rounds: 60,
        warm_up: 6,
    })
}

/// A further process in a container that runs.
pub(crate) fn exec(context: &Context) -> anyhow::Result<Comparison> {
    /// Ends the container with the last run.
    struct Running(Rc<Runtime>);

    impl Drop for Running {
        fn drop(&mut self) {
            if let Err(error) = measure::run(&mut self.0.command(&["delete", "--force", &self.0.id()])) {
                eprintln!("bench: {error:#}");
            }
        }
    }

    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let id = runtime.id();
        timed(&mut [runtime.with_bundle("create", "sleep", &id), runtime.command(&["start", &id])])?;
        let running = Running(Rc::clone(runtime));
        Ok(Box::new(move || timed(&mut [running.0.command(&["exec", &id, "/bin/true"])])))
    };
    let contestants = contestants(context, &ground, "exec ID /bin/true", job)?;
    Ok(Comparison {
        what: ground.what("Run `true` by exec in"),
        contestants,
        bounds: bounds(false),
        rounds: 100,
        warm_up: 10,
    })
}

/// The largest process of a run.
pub(crate) fn memory(context: &Context) -> anyhow::Result<Comparison> {
    let ground = Ground::make()?;
    let job: Job = |runtime| {
        let runtime = Rc::clone(runtime);
        Ok(Box::new(move || {
            let run = runtime.with_bundle("run", "true", &runtime.id());
            let mut launcher = Command::new(&runtime.ground.floor);
            launcher.arg("--peak").arg(run.get_program()).args(run.get_args());
            let output = launcher.stdin(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&output.stderr);
            let bytes: f64 = text.trim().parse().with_context(|| format!("{launcher:?}: {text}"))?;
            Ok(Sample::from([(Metric::PeakMemory, bytes)]))
        }))
    };
    let contestants = contestants(context, &ground, "run --bundle BUNDLE ID", job)?;
    let bounds = vec![Bound { ours: OURS, metric: Metric::PeakMemory, at_most: Limit::Times(1.0, &["crun"]) }];
    Ok(Comparison { what: ground.what("Run"), contestants, bounds, rounds: 10, warm_up: 1 })
}
