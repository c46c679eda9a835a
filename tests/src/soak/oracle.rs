//! What the tables must hold, whatever was done before: decided from what is wanted, by code that shares nothing with the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::stage::{Admin, BACKENDS, DRAIN_TIME, FILE_WEIGHT, SERVICES, Server, Stage, Step, Wanted};
use super::tables::{self, NONE, Service};

/// Who owns each slot of a service.
type Owners = Vec<Option<usize>>;

/// Looks at the tables again and again, and remembers the last look.
#[derive(Default)]
pub struct Oracle {
    before: Option<(Wanted, Vec<Owners>)>,
    /// How often it looked.
    pub looks: u64,
    /// What was not as it must be.
    pub wrong: Vec<String>,
}

/// A backend's part of a ring may differ from its weight's by this fraction of it.
const SPREAD: f64 = 0.15;
/// When a ring is populated anew, so many slots may move between backends that nothing was done to, besides those that were lent or are
/// lent now.
const REPOPULATED: f64 = 0.05;
/// The daemon looks for slots whose drain is over once a second; a busy machine is late.
const DRAIN_SEEN: Duration = DRAIN_TIME.saturating_add(Duration::from_secs(3));

impl Oracle {
    /// Looks once, after a step that has shown.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn look(&mut self, stage: &Stage<'_>, step: Step) -> Result<()> {
        self.looks += 1;
        let found = tables::read(stage.daemon()?)?;
        let wanted = stage.wanted();
        let mut all = Vec::new();
        for (number, kind) in SERVICES.iter().enumerate() {
            let target = kind.target();
            let mut same = found.iter().filter(|one| one.vip == (target.ip(), target.port()));
            let (Some(service), None) = (same.next(), same.next()) else {
                self.wrong.push(format!("{}: not there once", kind.name));
                return Ok(());
            };
            let (owners, wrong) = judge(stage, number, service)?;
            self.wrong.extend(
                wrong
                    .into_iter()
                    .map(|wrong| format!("{}: {wrong}, after {step:?}", kind.name)),
            );
            all.push(owners);
        }
        if let Some((before, last)) = self.before.take() {
            for (number, kind) in SERVICES.iter().enumerate() {
                let moved = moved_for_nothing(step, number, (&before, &last[number]), (wanted, &all[number]));
                if let Some(moved) = moved {
                    self.wrong.push(format!("{}: {moved}, after {step:?}", kind.name));
                }
            }
        }
        self.before = Some((wanted.clone(), all));
        Ok(())
    }
}

/// The owners of a service's slots, and what is wrong with them.
fn judge(stage: &Stage<'_>, number: usize, service: &Service) -> Result<(Owners, Vec<String>)> {
    let wanted = stage.wanted();
    let mut goals = Vec::new();
    for backend in 0..BACKENDS {
        goals.push(stage.goal(number, backend)?);
    }
    let whose = |row: u16| {
        let row = service.rows.get(usize::from(row)).copied().flatten()?;
        let backend = goals.iter().position(|goal| *goal == row.goal)?;
        Some((backend, row.serves))
    };
    let mut wrong: BTreeMap<String, u64> = BTreeMap::new();
    let mut note = |what: String| *wrong.entry(what).or_default() += 1;
    let mut owners = Owners::new();
    let mut slots = [0_u32; BACKENDS];
    for slot in &service.slots {
        let owner = whose(slot.current);
        match owner {
            Some((backend, serves)) => {
                slots[backend] += 1;
                if !wanted.accepts(number, backend) {
                    note(format!("slots of {}, which is to have none", stage.name(backend)));
                } else if !serves {
                    note(format!("slots of {}, whose row does not serve", stage.name(backend)));
                }
            }
            None => note(format!("slots of row {}, which is no backend's", slot.current)),
        }
        if slot.previous != slot.current && slot.previous != NONE {
            match whose(slot.previous) {
                Some((backend, _)) if !may_keep(wanted, number, backend) => {
                    note(format!("slots that {} had, which is out", stage.name(backend)));
                }
                Some(_) => {}
                None => note(format!("slots that row {} had, which is no backend's", slot.previous)),
            }
        }
        owners.push(owner.map(|(backend, _)| backend));
    }
    let accepting = wanted.accepting(number);
    let weight = |backend: usize| f64::from(wanted.members[number][backend].weight);
    let sum: f64 = accepting.iter().map(|backend| weight(*backend)).sum();
    for backend in accepting {
        let expected = weight(backend) / sum * service.slots.len() as f64;
        if (f64::from(slots[backend]) - expected).abs() > SPREAD * expected {
            note(format!(
                "{} has {} slots, not some {expected:.0}",
                stage.name(backend),
                slots[backend]
            ));
        }
    }
    let wrong = wrong.into_iter().map(|(what, count)| format!("{count} × {what}"));
    Ok((owners, wrong.collect()))
}

/// Whether connections may be left at a backend that gets no new ones. One that is not in the file is not checked any more: it keeps what
/// it has for the drain time, whatever its server does.
fn may_keep(wanted: &Wanted, service: usize, backend: usize) -> bool {
    let alive = match wanted.left[backend] {
        Some(since) => since.elapsed() < DRAIN_SEEN,
        None => wanted.servers[backend] == Server::Runs,
    };
    alive && wanted.members[service][backend].admin != Admin::Disabled
}

/// The part of a ring that its owners lend: all of those that get no new connections, and of the others what their weight is below the
/// file's. A ring has room for the larger of the two.
fn lent(wanted: &Wanted, service: usize) -> f64 {
    let (mut all, mut kept) = (0, 0);
    for backend in (0..BACKENDS).filter(|backend| wanted.in_file[*backend]) {
        let weight = wanted.members[service][backend].weight;
        all += weight.max(FILE_WEIGHT);
        if wanted.accepts(service, backend) {
            kept += weight;
        }
    }
    f64::from(all - kept) / f64::from(all)
}

/// Slots that went from one backend to another though nothing had happened to either.
fn moved_for_nothing(
    step: Step,
    service: usize,
    (before, last): (&Wanted, &Owners),
    (wanted, owners): (&Wanted, &Owners),
) -> Option<String> {
    let touched = |backend: usize| {
        before.accepts(service, backend) != wanted.accepts(service, backend)
            || before.members[service][backend].weight != wanted.members[service][backend].weight
    };
    let pairs = last
        .iter()
        .zip(owners)
        .filter_map(|(from, to)| Some(((*from)?, (*to)?)));
    let moved = pairs
        .filter(|(from, to)| from != to && !touched(*from) && !touched(*to))
        .count();
    // Another file, and a weight above the file's, populate the ring anew.
    let allowed = match step {
        Step::InFile(..) | Step::Weight(..) => REPOPULATED + lent(before, service).max(lent(wanted, service)),
        _ => 0.0,
    };
    (last.len() != owners.len() || moved as f64 > allowed * owners.len() as f64).then(|| {
        format!(
            "{moved} of {} slots moved between backends that nothing was done to (may: {:.0} %)",
            owners.len(),
            allowed * 100.0
        )
    })
}
