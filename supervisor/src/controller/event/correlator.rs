//! What of all that happens is written: the first time, a count from then on, and no more than a reader can take in.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{EventType, Occurrence};
use crate::api::kinds::text;

/// After so many different messages for one reason, the others are counted together.
const MAX_SIMILAR: usize = 10;
/// Within which time they are looked at together, from the first.
const SIMILAR_SPAN: Duration = Duration::from_secs(600);
/// How many events of one object a component may write at once, and after which time one more. As Kubernetes' own.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// What was not told for so long is forgotten: then it is a new event.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What events have in common that are about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Similar {
    component: &'static str,
    uid: String,
    part: String,
    event_type: EventType,
    reason: &'static str,
}

struct Series {
    messages: HashSet<String>,
    since: Instant,
}

/// How much of the burst is used up.
struct Budget {
    used: u32,
    at: Instant,
}

struct Written {
    name: String,
    at: Instant,
}

/// An occurrence that is to be written.
pub(super) struct Told {
    pub(super) occurrence: Occurrence,
    /// Name of the event that already tells of it.
    pub(super) earlier: Option<String>,
}

#[derive(Default)]
pub(super) struct Correlator {
    budgets: HashMap<(&'static str, String), Budget>,
    series: HashMap<Similar, Series>,
    written: HashMap<(Similar, String), Written>,
    /// Of those that are counted together; the message stands for many.
    together: HashMap<Similar, Written>,
}

impl Correlator {
    /// What is to be written of it, if anything.
    pub(super) fn take(&mut self, mut occurrence: Occurrence, now: Instant) -> Option<Told> {
        let similar = Similar::of(&occurrence);
        let key = (similar.component, similar.uid.clone());
        let budget = self.budgets.entry(key).or_insert(Budget { used: 0, at: now });
        if !budget.allows(now) {
            return None;
        }
        let series = self.series.entry(similar.clone()).or_insert_with(|| Series::new(now));
        if now.duration_since(series.since) > SIMILAR_SPAN {
            *series = Series::new(now);
            self.together.remove(&similar);
        }
        let known = (similar, occurrence.message.clone());
        if !series.messages.contains(&known.1) && series.messages.len() >= MAX_SIMILAR {
            occurrence.message = format!("(combined from similar events): {}", occurrence.message);
            let earlier = self.together.get_mut(&known.0).map(|written| written.again(now));
            return Some(Told { occurrence, earlier });
        }
        series.messages.insert(known.1.clone());
        let earlier = self.written.get_mut(&known).map(|written| written.again(now));
        Some(Told { occurrence, earlier })
    }

    /// Remembers which event tells of it.
    pub(super) fn written(&mut self, occurrence: &Occurrence, name: String) {
        let (similar, written) = (Similar::of(occurrence), Written { name, at: Instant::now() });
        let is_one_of_few =
            self.series.get(&similar).is_some_and(|series| series.messages.contains(&occurrence.message));
        match is_one_of_few {
            true => drop(self.written.insert((similar, occurrence.message.clone()), written)),
            false => drop(self.together.insert(similar, written)),
        }
    }

    /// Lets go of what is long past.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_recent = |at: Instant| now.duration_since(at) < REMEMBERED;
        self.written.retain(|_, written| is_recent(written.at));
        self.together.retain(|_, written| is_recent(written.at));
        self.series.retain(|_, series| is_recent(series.since));
        self.budgets.retain(|_, budget| {
            budget.refill(now);
            budget.used > 0
        });
    }
}

impl Similar {
    fn of(occurrence: &Occurrence) -> Self {
        Self {
            component: occurrence.component,
            uid: text(&occurrence.involved, "/uid").to_owned(),
            part: text(&occurrence.involved, "/fieldPath").to_owned(),
            event_type: occurrence.event_type,
            reason: occurrence.reason,
        }
    }
}

impl Series {
    fn new(now: Instant) -> Self {
        Self { messages: HashSet::new(), since: now }
    }
}

impl Written {
    fn again(&mut self, now: Instant) -> String {
        self.at = now;
        self.name.clone()
    }
}

impl Budget {
    fn refill(&mut self, now: Instant) {
        let earned = u32::try_from(now.duration_since(self.at).as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        self.used = self.used.saturating_sub(earned);
        self.at += REFILL * earned;
    }

    fn allows(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.used == 0 {
            self.at = now;
        }
        let allowed = self.used < BURST;
        self.used += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn occurrence(uid: &str, message: &str) -> Occurrence {
        let involved = json!({"uid": uid});
        let message = message.to_owned();
        Occurrence { component: "c", event_type: EventType::Warning, reason: "BackOff", message, involved }
    }

    /// What is told, and whether it is counted in the event named.
    fn told(correlator: &mut Correlator, uid: &str, message: &str, now: Instant) -> Option<(String, Option<String>)> {
        let told = correlator.take(occurrence(uid, message), now)?;
        if told.earlier.is_none() {
            correlator.written(&told.occurrence, format!("{uid}-{}", told.occurrence.message));
        }
        Some((told.occurrence.message, told.earlier))
    }

    #[test]
    fn what_happens_again_is_counted() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        assert_eq!(told(&mut correlator, "a", "x", now), Some(("x".into(), None)));
        assert_eq!(told(&mut correlator, "a", "x", now), Some(("x".into(), Some("a-x".into()))));
        assert_eq!(told(&mut correlator, "b", "x", now), Some(("x".into(), None)));
        correlator.forget(now + REMEMBERED);
        assert_eq!(told(&mut correlator, "a", "x", now + REMEMBERED), Some(("x".into(), None)));
    }

    #[test]
    fn many_messages_of_one_reason_are_counted_together() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        for number in 0..MAX_SIMILAR {
            assert_eq!(told(&mut correlator, "a", &number.to_string(), now).unwrap().1, None);
        }
        let combined = "(combined from similar events): ";
        assert_eq!(told(&mut correlator, "a", "x", now), Some((format!("{combined}x"), None)));
        let earlier = Some(format!("a-{combined}x"));
        assert_eq!(told(&mut correlator, "a", "y", now), Some((format!("{combined}y"), earlier)));
        // One that was told on its own still is.
        assert_eq!(told(&mut correlator, "a", "3", now), Some(("3".into(), Some("a-3".into()))));
        let later = now + SIMILAR_SPAN * 2;
        assert_eq!(told(&mut correlator, "a", "z", later), Some(("z".into(), None)));
    }

    #[test]
    fn one_object_cannot_fill_the_book() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let count = |correlator: &mut Correlator, now| (0..100).filter_map(|_| told(correlator, "a", "x", now)).count();
        assert_eq!(count(&mut correlator, now), BURST as usize);
        assert_eq!(count(&mut correlator, now + REFILL * 2), 2);
        assert!(told(&mut correlator, "b", "x", now).is_some());
    }
}
