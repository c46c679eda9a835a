//! What waits for one receiver: the most severe first, and what belongs together as one message. Pure.
//!
//! Nothing that comes is turned away. Events of one kind, severity and cause that happen within [`TOGETHER_MS`] of each other are one [`Message`]. Of
//! each severity so many are kept with all that they say ([`NAMED`]); one that comes beyond that only counts, in a message of its kind.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::api::events::{Cause, Event, EventKind, Severity};

/// Events of one kind that are this close to each other are taken to have one cause.
const TOGETHER_MS: u64 = 10_000;
/// The most events that a message names: a body of some 100 KB.
const MOST: usize = 500;
/// How many events a sentence names.
const IN_A_SENTENCE: usize = 20;

/// How many events of a severity are kept with all that they say: together some 10 MB, shared by all receivers.
pub(super) const fn named(severity: Severity) -> usize {
    match severity {
        Severity::Critical => 20_000,
        Severity::Warning => 5_000,
        Severity::Info => 1_000,
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, Message>,
    /// The messages that may still grow.
    open: HashMap<Kind, Place>,
    next: u64,
    /// Events that are kept whole.
    held: Tally,
    /// All that wait.
    total: Tally,
    /// The severities of which some only count.
    brimming: [bool; 3],
}

/// The more severe before the less, else in the order of coming.
type Place = (Reverse<Severity>, u64);
type Kind = (EventKind, Severity, Cause);

/// Events that are told of together.
#[derive(Clone, Debug)]
pub(super) struct Message {
    place: Place,
    /// The first ones, in order: one at least.
    events: Vec<Arc<Event>>,
    /// How many it stands for.
    pub(super) count: u64,
    /// The number of the last of them.
    last_id: u64,
    /// When it was first tried to be delivered: from then on it does not change, so that a receiver that gets it again knows it by its number.
    pub(super) begun: Option<Instant>,
    /// How often its receiver was there and did not take it.
    pub(super) untaken: u32,
    /// All but the first of its events are left out of its body: its receiver may take nothing as long.
    is_short: bool,
}

/// A count for each severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u64; 3]);

impl Queue {
    /// Takes in an event; whether it is the first of its severity that is only counted.
    pub(super) fn push(&mut self, event: &Arc<Event>) -> bool {
        let severity = event.severity;
        let kind = (event.kind, severity, event.by);
        let is_full = self.held.of(severity) >= named(severity) as u64;
        self.total.add(severity, 1);
        let last = self.open.get(&kind).and_then(|place| self.waiting.get_mut(place));
        if let Some(message) = last
            && (is_full || message.takes(event))
        {
            if !is_full {
                message.events.push(Arc::clone(event));
                self.held.add(severity, 1);
            }
            message.count += 1;
            message.last_id = event.id;
        } else {
            // Beyond the bound too: there are only so many kinds.
            let place = (Reverse(severity), self.next);
            self.next += 1;
            let message = Message {
                place,
                events: vec![Arc::clone(event)],
                count: 1,
                last_id: event.id,
                begun: None,
                untaken: 0,
                is_short: false,
            };
            self.waiting.insert(place, message);
            self.open.insert(kind, place);
            self.held.add(severity, 1);
        }
        is_full && !std::mem::replace(&mut self.brimming[severity as usize], true)
    }

    /// Takes out what is to be told next.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let (place, message) = self.waiting.pop_first()?;
        let first = message.first();
        let (kind, severity) = ((first.kind, first.severity, first.by), first.severity);
        if self.open.get(&kind) == Some(&place) {
            self.open.remove(&kind);
        }
        self.held.take(severity, message.events.len() as u64);
        self.total.take(severity, message.count);
        if self.total.of(severity) == 0 {
            self.brimming[severity as usize] = false;
        }
        Some(message)
    }

    /// Puts one back to where it was: before the others of its severity.
    pub(super) fn put_back(&mut self, message: Message) {
        let severity = message.first().severity;
        self.held.add(severity, message.events.len() as u64);
        self.total.add(severity, message.count);
        self.waiting.insert(message.place, message);
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> Tally {
        self.total
    }
}

impl Message {
    fn takes(&self, event: &Event) -> bool {
        self.events.len() < MOST && event.at_unix_ms.saturating_sub(self.first().at_unix_ms) <= TOGETHER_MS
    }

    /// The first of its events: whose kind and severity it has.
    pub(super) fn first(&self) -> &Event {
        &self.events[0]
    }

    /// The number of the last of its events.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The events that its body lists, in order: all that it keeps, or the first.
    pub(super) fn listed(&self) -> &[Arc<Event>] {
        match self.is_short {
            true => &self.events[..1],
            false => &self.events,
        }
    }

    /// Its count, under its severity.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        tally.add(self.first().severity, self.count);
        tally
    }

    /// Leaves all but the first of its events out of its body; whether there was anything to leave out.
    pub(super) fn shorten(&mut self) -> bool {
        self.events.len() > 1 && !std::mem::replace(&mut self.is_short, true)
    }

    /// Who it is about, in a few words.
    pub(super) fn subject(&self) -> String {
        match self.count {
            1 => self.first().subject(),
            count => format!("{} and {} more", self.first().subject(), count - 1),
        }
    }

    /// What has happened, in one sentence.
    pub(super) fn summary(&self) -> String {
        if self.count == 1 {
            return self.first().sentence();
        }
        let mut subjects: Vec<String> = self.events.iter().map(|event| event.subject()).collect();
        subjects.truncate(IN_A_SENTENCE);
        let more = match self.count - subjects.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{} events {}: {}{more}",
            self.count,
            self.first().kind,
            subjects.join(", ")
        )
    }

    /// As receivers get it: the first event, and what the others do not share with it.
    pub(super) fn body(&self) -> Body<'_> {
        Body {
            event: self.first(),
            count: self.count,
            last_id: self.last_id,
            summary: self.summary(),
            also: self.listed()[1..].iter().map(|event| Also::of(event)).collect(),
        }
    }
}

/// A message as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    #[serde(flatten)]
    event: &'a Event,
    count: u64,
    last_id: u64,
    summary: String,
    also: Vec<Also<'a>>,
}

#[derive(Debug, Serialize)]
struct Also<'a> {
    id: u64,
    at_unix_ms: u64,
    service: Option<&'a str>,
    backend: Option<&'a str>,
    from: &'a str,
    to: &'a str,
    why: &'a str,
}

impl<'a> Also<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            id: event.id,
            at_unix_ms: event.at_unix_ms,
            service: event.service.as_deref(),
            backend: event.backend.as_deref(),
            from: &event.from,
            to: &event.to,
            why: &event.why,
        }
    }
}

impl Tally {
    /// How many of a severity.
    pub fn of(&self, severity: Severity) -> u64 {
        self.0[severity as usize]
    }

    /// How many of all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, severity: Severity, count: u64) {
        self.0[severity as usize] += count;
    }

    pub(super) fn join(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, more)| *mine += more);
    }

    fn take(&mut self, severity: Severity, count: u64) {
        let left = &mut self.0[severity as usize];
        *left = left.saturating_sub(count);
    }
}

/// `12 (3 critical, 9 warning)`, or `0`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let parts: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Info]
            .into_iter()
            .filter(|severity| self.of(*severity) > 0)
            .map(|severity| format!("{} {}", self.of(severity), severity.name()))
            .collect();
        if parts.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, kind: EventKind, at_unix_ms: u64) -> Arc<Event> {
        Arc::new(Event {
            id,
            at_unix_ms,
            kind,
            severity: kind.severity(),
            service: Some(format!("s{id}")),
            backend: None,
            from: "normal".into(),
            to: "nobody".into(),
            why: "no backend is up".into(),
            by: Cause::Policy,
        })
    }

    fn ids(message: &Message) -> Vec<u64> {
        message.listed().iter().map(|event| event.id).collect()
    }

    #[test]
    fn what_is_critical_comes_first_and_what_belongs_together_is_one() {
        let mut queue = Queue::default();
        for id in 0..1_200 {
            let kind = [EventKind::BackendDown, EventKind::Failover, EventKind::ServiceLost][id as usize % 3];
            assert!(!queue.push(&event(id, kind, id)));
        }
        assert_eq!(queue.waiting().to_string(), "1200 (400 critical, 800 warning)");
        let lost = queue.pop().expect("it waits");
        assert_eq!((lost.count, lost.first().kind), (400, EventKind::ServiceLost));
        assert_eq!(ids(&lost), (0..400).map(|n| 3 * n + 2).collect::<Vec<_>>());
        let kinds: Vec<EventKind> = std::iter::from_fn(|| queue.pop()).map(|m| m.first().kind).collect();
        assert_eq!(kinds, [EventKind::BackendDown, EventKind::Failover]);
        assert_eq!(queue.waiting(), Tally::default());
        let text = lost.summary();
        assert!(text.starts_with("400 events service_lost: s2, s5, s8, "), "{text}");
        assert!(text.ends_with("s59 and 380 more"), "{text}");
    }

    #[test]
    fn other_times_and_other_causes_are_other_messages() {
        let mut queue = Queue::default();
        queue.push(&event(1, EventKind::Tier, 0));
        queue.push(&event(2, EventKind::Tier, TOGETHER_MS));
        queue.push(&event(3, EventKind::Tier, TOGETHER_MS + 1));
        let other = Event {
            by: Cause::Operator,
            ..Event::clone(&event(4, EventKind::Tier, TOGETHER_MS + 1))
        };
        queue.push(&Arc::new(other));
        let messages: Vec<Vec<u64>> = std::iter::from_fn(|| queue.pop()).map(|m| ids(&m)).collect();
        assert_eq!(messages, [vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn one_that_was_tried_stays_as_it_was_and_first_of_its_severity() {
        let mut queue = Queue::default();
        queue.push(&event(1, EventKind::Tier, 0));
        let tried = queue.pop().expect("it waits");
        queue.push(&event(2, EventKind::Tier, 0));
        queue.put_back(tried);
        queue.push(&event(3, EventKind::Tier, 0));
        queue.push(&event(4, EventKind::ServiceLost, 0));
        let messages: Vec<Vec<u64>> = std::iter::from_fn(|| queue.pop()).map(|m| ids(&m)).collect();
        assert_eq!(messages, [vec![4], vec![1], vec![2, 3]]);
    }

    #[test]
    fn beyond_the_bound_they_count_and_none_pushes_another_out() {
        let mut queue = Queue::default();
        let bound = named(Severity::Warning) as u64;
        let full: Vec<u64> = (0..bound + 70)
            .filter(|id| queue.push(&event(*id, EventKind::BackendDown, 0)))
            .collect();
        assert_eq!(full, [bound], "said once");
        // Of a kind that has no message yet, and of another severity.
        assert!(!queue.push(&event(bound + 70, EventKind::Tier, 0)));
        assert!(!queue.push(&event(bound + 71, EventKind::ServiceLost, 0)));
        let messages: Vec<Message> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(messages[0].first().kind, EventKind::ServiceLost);
        assert_eq!(messages.iter().map(|message| message.count).sum::<u64>(), bound + 72);
        let last_of_many = &messages[messages.len() - 2];
        assert_eq!((last_of_many.count, last_of_many.listed().len()), (570, MOST));
        assert_eq!(last_of_many.last_id(), bound + 69);
        assert!(messages.iter().all(|message| message.listed().len() <= MOST));
        // With room again, it would be said again.
        assert!((0..=bound).any(|id| queue.push(&event(id, EventKind::BackendDown, 0))));
    }

    #[test]
    fn a_message_is_its_first_event_with_the_others_beside_it() {
        let mut queue = Queue::default();
        queue.push(&event(7, EventKind::ServiceLost, 5));
        queue.push(&event(9, EventKind::ServiceLost, 6));
        let message = queue.pop().expect("it waits");
        let body = serde_json::to_value(message.body()).expect("plain data");
        assert_eq!(
            body,
            serde_json::json!({
                "id": 7, "at_unix_ms": 5, "kind": "service_lost", "severity": "critical", "service": "s7", "backend": null,
                "from": "normal", "to": "nobody", "why": "no backend is up", "by": "policy",
                "count": 2, "last_id": 9, "summary": "2 events service_lost: s7, s9",
                "also": [{"id": 9, "at_unix_ms": 6, "service": "s9", "backend": null,
                    "from": "normal", "to": "nobody", "why": "no backend is up"}],
            })
        );
    }
}
