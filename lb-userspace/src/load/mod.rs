//! Weights that follow load: what part of its weight a backend keeps. Pure, but for [`agent`], which asks the backends.
//!
//! Shares move by a tenth at a time and only when the difference is at least that, so that the ring moves little and comes to rest.

pub mod agent;

use std::time::Duration;

use crate::policy::WHOLE;

/// A tenth: by so much a share moves at a time, and so much is the least.
pub const STEP: u16 = WHOLE / 10;
/// Answers that come within this are equally fast: below it there is nothing but noise.
const EQUALLY_FAST: Duration = Duration::from_millis(1);

/// The share after one step towards `target`.
pub fn toward(now: u16, target: u16) -> u16 {
    let target = target.max(STEP);
    // The last tenth before the whole is shorter or longer by rounding.
    if target == WHOLE && now >= WHOLE - STEP - STEP / 2 {
        return WHOLE;
    }
    if now.abs_diff(target) < STEP {
        return now;
    }
    if target > now {
        now + STEP
    } else {
        (now - STEP).max(STEP)
    }
}

/// The share of one that answers in `mine`, where the fastest answers in `best`.
pub fn by_latency(mine: Duration, best: Duration) -> u16 {
    let nanoseconds = |time: Duration| time.max(EQUALLY_FAST).as_nanos();
    let share = u128::from(WHOLE) * nanoseconds(best) / nanoseconds(mine);
    share.min(u128::from(WHOLE)) as u16
}

/// A running mean of response times: each new one counts an eighth.
pub fn mean(before: Option<Duration>, new: Duration) -> Duration {
    before.map_or(new, |before| (before * 7 + new) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares in percent, step by step, until they rest.
    fn walk(mut now: u16, target: u16) -> Vec<u32> {
        let mut seen = Vec::new();
        for _ in 0..50 {
            let next = toward(now, target);
            if next == now {
                return seen;
            }
            seen.push((u32::from(next) * 100 + 32_000) / u32::from(WHOLE));
            now = next;
        }
        panic!("it does not rest: {seen:?}");
    }

    #[test]
    fn shares_move_by_tenths_and_come_to_rest() {
        assert_eq!(walk(WHOLE, WHOLE), [0; 0]);
        assert_eq!(walk(WHOLE, WHOLE / 100 * 92), [0; 0]);
        assert_eq!(walk(WHOLE, WHOLE / 2), [90, 80, 70, 60, 50]);
        assert_eq!(walk(WHOLE, 0), [90, 80, 70, 60, 50, 40, 30, 20, 10]);
        assert_eq!(walk(STEP, WHOLE), [20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(walk(WHOLE / 2, WHOLE / 100 * 55), [0; 0]);
    }

    #[test]
    fn the_slower_get_less_and_noise_does_not_count() {
        let ms = Duration::from_millis;
        assert_eq!(by_latency(ms(10), ms(10)), WHOLE);
        assert_eq!(by_latency(ms(20), ms(10)), WHOLE / 2);
        assert_eq!(
            by_latency(Duration::from_micros(900), Duration::from_micros(100)),
            WHOLE
        );
        assert_eq!(by_latency(ms(5), ms(10)), WHOLE);
        assert_eq!(mean(None, ms(8)), ms(8));
        assert_eq!(mean(Some(ms(8)), ms(16)), ms(9));
    }
}
