//! Of the backends that can serve, who does.

use serde::{Deserialize, Serialize};

use super::WHOLE;
use crate::model::Service;

/// How a service is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nobody serves, but the checks of some have said nothing yet.
    Starting,
    /// By backends that are up.
    Normal,
    /// By all, because too few are healthy.
    Panic,
    /// By backends that are up and would be held out if there were others.
    LastResort,
    /// By the sorry backends.
    Sorry,
    /// By nobody.
    Nobody,
}

/// What the selection knows of a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// There is a way to it, the operator allows it, its weight is above 0.
    pub(super) usable: bool,
    /// As `usable`, whether there is a way or not.
    pub(super) counted: bool,
    /// Its checks say so.
    pub(super) up: bool,
    /// Its checks have said nothing yet.
    pub(super) starting: bool,
    /// It is held out, for changing too often.
    pub(super) damped: bool,
    /// What it could serve with; nothing: it is out.
    pub(super) fraction: Option<u16>,
    /// It is neither coming nor going.
    pub(super) steady: bool,
}

/// Who serves.
pub(super) struct Selection {
    pub(super) fractions: Vec<u16>,
    pub(super) mode: Mode,
    pub(super) tiers: Vec<u32>,
}

impl Mode {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Starting => "starting",
            Mode::Normal => "normal",
            Mode::Panic => "panic",
            Mode::LastResort => "last-resort",
            Mode::Sorry => "sorry",
            Mode::Nobody => "nobody",
        }
    }
}

/// Goes down the list: panic, the tiers, those held out, the sorry backends.
pub(super) fn select(service: &Service, candidates: &[Candidate]) -> Selection {
    let sorry: Vec<bool> = service.backends.iter().map(|backend| backend.sorry).collect();
    let all = || candidates.iter().zip(&sorry);
    let of = |mode, serves: &dyn Fn(&Candidate, bool) -> bool| Selection {
        fractions: all()
            .map(|(one, sorry)| if serves(one, *sorry) { WHOLE } else { 0 })
            .collect(),
        mode,
        tiers: Vec::new(),
    };
    if is_panic(service, candidates) && all().any(|(one, sorry)| one.usable && !sorry) {
        return of(Mode::Panic, &|one, sorry| one.usable && !sorry);
    }
    let (fractions, tiers) = tiers(service, candidates);
    // Who is down and only fades out is no reason to leave aside who is up.
    let nobody_up = !candidates.iter().any(|one| one.usable && one.up);
    let counts = |(one, fraction): (&Candidate, &u16)| *fraction > 0 && (one.up || one.steady || nobody_up);
    if candidates.iter().zip(&fractions).any(counts) {
        return Selection {
            fractions,
            mode: Mode::Normal,
            tiers,
        };
    }
    if all().any(|(one, sorry)| one.usable && one.up && !sorry) {
        return of(Mode::LastResort, &|one, sorry| one.usable && one.up && !sorry);
    }
    if all().any(|(one, sorry)| one.usable && one.up && *sorry) {
        return of(Mode::Sorry, &|one, sorry| one.usable && one.up && sorry);
    }
    let starting = candidates.is_empty() || all().any(|(one, _)| one.counted && one.starting);
    of(if starting { Mode::Starting } else { Mode::Nobody }, &|_, _| false)
}

/// Fractions by tier: from the lowest priority on, until enough serve. What is still coming or already going leaves the next
/// tier a part, so that one fades in as the other fades out.
fn tiers(service: &Service, candidates: &[Candidate]) -> (Vec<u16>, Vec<u32>) {
    let mut fractions = vec![0; candidates.len()];
    let mut serving = Vec::new();
    let mut priorities: Vec<u32> = service.backends.iter().map(|backend| backend.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let needed = service.policy.min_healthy as usize;
    let (mut steady, mut partial) = (0, Vec::new());
    let mut part = WHOLE;
    for priority in priorities {
        let mut any = false;
        for (index, (backend, one)) in service.backends.iter().zip(candidates).enumerate() {
            if backend.priority != priority || backend.sorry || !one.usable {
                continue;
            }
            let Some(fraction) = one.fraction else { continue };
            fractions[index] = scale(fraction, part);
            any = any || fractions[index] > 0;
            if one.steady {
                steady += 1;
            } else {
                partial.push(fraction);
            }
        }
        if any {
            serving.push(priority);
        }
        if steady >= needed {
            break;
        }
        let missing = needed - steady;
        partial.sort_unstable_by(|a, b| b.cmp(a));
        part = match partial.get(missing - 1) {
            Some(weakest) => WHOLE - *weakest,
            None => WHOLE,
        };
    }
    (fractions, serving)
}

/// A part of a part, in 65,535ths; not nothing unless one of them is.
pub(super) fn scale(fraction: u16, part: u16) -> u16 {
    let product = u32::from(fraction) * u32::from(part) / u32::from(WHOLE);
    let least = u32::from(fraction > 0 && part > 0);
    product.max(least) as u16
}

fn is_panic(service: &Service, candidates: &[Candidate]) -> bool {
    let threshold = u64::from(service.policy.panic_threshold);
    let (healthy, counted) = healthy(service, candidates);
    counted > 0 && healthy * 1000 < threshold * counted
}

/// How many are healthy, of how many. Whoever has no verdict yet is taken for healthy.
fn healthy(service: &Service, candidates: &[Candidate]) -> (u64, u64) {
    let counted = candidates.iter().zip(&service.backends);
    let counted = counted.filter(|(one, backend)| one.counted && !backend.sorry);
    let (mut healthy, mut all) = (0, 0);
    for (one, _) in counted {
        all += 1;
        healthy += u64::from(one.starting || one.usable && one.up && !one.damped);
    }
    (healthy, all)
}

/// Why there is panic, for people.
pub(super) fn panic_reason(service: &Service, candidates: &[Candidate]) -> String {
    let (healthy, counted) = healthy(service, candidates);
    let percent = f64::from(service.policy.panic_threshold) / 10.0;
    format!("{healthy} of {counted} backends are healthy, fewer than {percent} %: all are used")
}
