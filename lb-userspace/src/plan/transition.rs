//! What becomes of one slot when its owner changes: which flows could break, and so must be remembered.

use lb_common::map::{BackendNumber, NOBODY, Slot};

/// Which flows a service remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// None: a slot is its owner's.
    Never,
    /// Those of slots whose owner changed while the old one serves.
    Adaptive,
    /// All: no slot is ever stable.
    Always,
}

/// The slot after `wanted` has become its owner; `alive` says of a backend whether it serves the flows that it has.
///
/// A dead owner is replaced without a trace. A slot that moves again while it is moving keeps its first owner as the
/// previous one: flows begun in between are remembered.
pub fn transition(slot: Slot, wanted: BackendNumber, rule: Rule, alive: impl Fn(BackendNumber) -> bool) -> Slot {
    let next = match rule {
        Rule::Never => return Slot::stable(wanted),
        Rule::Adaptive | Rule::Always => adaptive(slot, wanted, |number| number != NOBODY && alive(number)),
    };
    if rule == Rule::Always && next.is_stable() {
        Slot::settled(next.current())
    } else {
        next
    }
}

fn adaptive(slot: Slot, wanted: BackendNumber, alive: impl Fn(BackendNumber) -> bool) -> Slot {
    let (current, previous) = (slot.current(), slot.previous());
    if slot.is_stable() || slot.is_settled() {
        if wanted == current {
            return slot;
        }
        return match (alive(current), slot.is_stable()) {
            (true, _) => Slot::moving(wanted, current),
            // While nobody had it, flows of others may have been remembered.
            (false, true) if current == NOBODY => Slot::settled(wanted),
            (false, true) => Slot::stable(wanted),
            (false, false) => Slot::settled(wanted),
        };
    }
    if wanted == previous {
        // Back where it was; what began elsewhere in between is remembered.
        Slot::settled(wanted)
    } else if alive(previous) {
        Slot::moving(wanted, previous)
    } else if wanted != current && alive(current) {
        Slot::moving(wanted, current)
    } else {
        Slot::settled(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = 0;
    const B: u16 = 1;
    const C: u16 = 2;
    const DEAD: u16 = 9;

    fn check(rule: Rule, from: Slot, wanted: BackendNumber, to: Slot) {
        let next = transition(from, wanted, rule, |number| number != DEAD);
        assert_eq!(next, to, "{from:?} to {wanted} by {rule:?}");
        assert_eq!(
            transition(next, wanted, rule, |number| number != DEAD),
            next,
            "{from:?} to {wanted}: not at rest"
        );
    }

    #[test]
    fn adaptive_tracks_what_is_at_risk() {
        let to = |from, wanted, next| check(Rule::Adaptive, from, wanted, next);
        to(Slot::stable(A), A, Slot::stable(A));
        to(Slot::stable(A), B, Slot::moving(B, A));
        to(Slot::stable(DEAD), B, Slot::stable(B));
        to(Slot::EMPTY, B, Slot::settled(B));
        to(Slot::stable(DEAD), NOBODY, Slot::EMPTY);
        to(Slot::stable(A), NOBODY, Slot::moving(NOBODY, A));
        to(Slot::moving(B, A), B, Slot::moving(B, A));
        to(Slot::moving(B, A), C, Slot::moving(C, A));
        to(Slot::moving(B, A), A, Slot::settled(A));
        to(Slot::moving(B, DEAD), B, Slot::settled(B));
        to(Slot::moving(B, DEAD), C, Slot::moving(C, B));
        to(Slot::moving(DEAD, A), C, Slot::moving(C, A));
        to(Slot::moving(NOBODY, A), B, Slot::moving(B, A));
        to(Slot::settled(A), A, Slot::settled(A));
        to(Slot::settled(A), B, Slot::moving(B, A));
        to(Slot::settled(DEAD), B, Slot::settled(B));
    }

    #[test]
    fn never_and_always() {
        check(Rule::Never, Slot::moving(B, A), C, Slot::stable(C));
        check(Rule::Always, Slot::stable(A), A, Slot::settled(A));
        check(Rule::Always, Slot::stable(DEAD), B, Slot::settled(B));
        check(Rule::Always, Slot::settled(A), B, Slot::moving(B, A));
        check(Rule::Always, Slot::EMPTY, NOBODY, Slot::EMPTY);
    }
}
