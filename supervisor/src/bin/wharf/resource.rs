//! Names of kinds and objects as people type them: `po`, `deploy/web`, `pods a b`.

use anyhow::{anyhow, bail};
use wharf_supervisor::api::kinds::{KINDS, Kind};

/// Which objects a command is about.
#[derive(clap::Args)]
pub(crate) struct ObjectArguments {
    /// KIND, KIND NAME… or KIND/NAME…
    #[arg(required = true)]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: crate::Namespace,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects whose labels match, as in app=web
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
}

impl ObjectArguments {
    /// `None` for all of them.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(self.namespace.namespace.as_str())
    }
}

/// The kind of a plural, singular, short or group-qualified name.
pub(crate) fn kind(name: &str) -> anyhow::Result<&'static Kind> {
    let lower = name.to_lowercase();
    let known = KINDS.iter().find(|kind| {
        [kind.plural, kind.singular].contains(&lower.as_str())
            || kind.short_names.contains(&lower.as_str())
            || kind.resource() == lower
    });
    known.copied().ok_or_else(|| {
        let served: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
        anyhow!("no kind {name:?} here; served are {}", served.join(", "))
    })
}

/// `deployment.apps/web`, as results name an object.
pub(crate) fn shown(kind: &Kind, name: &str) -> String {
    match kind.group {
        "" => format!("{}/{name}", kind.singular),
        group => format!("{}.{group}/{name}", kind.singular),
    }
}

/// Reads `KIND`, `KIND NAME…` or `KIND/NAME…`; several kinds may be given as `KIND,KIND`.
pub(crate) fn selection(words: &[String]) -> anyhow::Result<Vec<(&'static Kind, Option<String>)>> {
    let Some(first) = words.first() else { bail!("name a kind, such as pods, or an object, such as deployment/web") };
    if words.iter().any(|word| word.contains('/')) {
        let parse = |word: &String| match word.split_once('/') {
            Some((kind_name, name)) => Ok((kind(kind_name)?, Some(name.to_owned()))),
            None => bail!("{word:?}: with KIND/NAME every object needs its kind"),
        };
        return words.iter().map(parse).collect();
    }
    // What people want to see of an application.
    let first = if first == "all" { "pods,services,deployments,replicasets" } else { first };
    let kinds: Vec<_> = first.split(',').map(kind).collect::<Result<_, _>>()?;
    match &words[1..] {
        [] => Ok(kinds.into_iter().map(|kind| (kind, None)).collect()),
        names => Ok(kinds.iter().flat_map(|kind| names.iter().map(|name| (*kind, Some(name.clone())))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(words: &str) -> Vec<String> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        selection(&words).unwrap().into_iter().map(|(kind, name)| shown(kind, name.as_deref().unwrap_or("*"))).collect()
    }

    #[test]
    fn selections_read_as_kubectl_reads_them() {
        assert_eq!(selected("po"), ["pod/*"]);
        assert_eq!(selected("deploy web api"), ["deployment.apps/web", "deployment.apps/api"]);
        assert_eq!(selected("pods,rs"), ["pod/*", "replicaset.apps/*"]);
        assert_eq!(selected("pod/a deployments.apps/b"), ["pod/a", "deployment.apps/b"]);
    }

    #[test]
    fn unknown_kinds_name_what_is_served() {
        let error = kind("podz").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(KINDS.iter().all(|kind| error.contains(kind.plural)), "{error}");
        assert!(selection(&["pod/a".into(), "b".into()]).is_err());
    }
}
