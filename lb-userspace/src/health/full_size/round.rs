//! One round: is a packet of users' full size answered, and if not, is a small one?

use futures_util::future::join_all;

use super::super::probe::Reply;

/// A padded packet that fits any path, in bytes: larger than a plain probe's, so that a host that drops padded packets is not taken
/// for a path that is too small.
pub(super) const SMALL_PACKET: u16 = 256;
/// Sizes that are tried in a round, at most: the server's segment may change meanwhile.
const SIZES: usize = 4;
/// Sizes that are asked for at once, to find the largest that is answered.
pub(super) const AT_ONCE: u16 = 16;

/// What came of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// The largest packet that users send to this backend, in bytes, as far as it was seen.
    pub(super) size: u16,
    pub(super) result: Answer,
}

/// What is known after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A packet of that size is answered.
    Fits,
    /// It is not, and a small one is.
    TooSmall,
    /// Neither is.
    Unanswered,
    /// Nothing: this host could not ask, or the backend refuses.
    Unknown,
}

/// Asks for `first` bytes, then for what the server's announced segment and its `headers` come to, if that is another size; never for more
/// than `full`.
pub(super) async fn round<F>(full: u16, first: u16, headers: u32, ask: impl Fn(u16) -> F) -> Round
where
    F: Future<Output = Reply>,
{
    // No user's packet is larger than what the server takes.
    let wanted = |mss: Option<u32>| {
        let largest = mss.and_then(|mss| u16::try_from(mss + headers).ok());
        largest.map_or(full, |largest| largest.min(full)).max(SMALL_PACKET)
    };
    let mut size = first.min(full);
    let done = |size, result| Round { size, result };
    for _ in 0..SIZES {
        let next = match ask(size).await {
            Reply::Answered { mss } if wanted(mss) <= size => return done(wanted(mss), Answer::Fits),
            Reply::Answered { mss } => wanted(mss),
            Reply::Unknown => return done(size, Answer::Unknown),
            Reply::Silent => match ask(SMALL_PACKET).await {
                Reply::Answered { mss } if wanted(mss) >= size => return done(size, Answer::TooSmall),
                Reply::Answered { mss } => wanted(mss),
                Reply::Silent => return done(size, Answer::Unanswered),
                Reply::Unknown => return done(size, Answer::Unknown),
            },
        };
        size = next;
    }
    done(size, Answer::Unknown)
}

/// The largest size below `size` that is answered, in bytes. Nothing: not even a small one is.
///
/// Many sizes at once, because each that is too large takes a whole timeout.
pub(super) async fn largest_answered<F>(size: u16, ask: impl Fn(u16) -> F) -> Option<u16>
where
    F: Future<Output = Reply>,
{
    let (mut answered, mut silent) = (None, size);
    loop {
        let low = answered.map_or(SMALL_PACKET, |answered: u16| answered + 1);
        if low >= silent {
            return answered;
        }
        let step = (silent - low).div_ceil(AT_ONCE).max(1);
        let sizes: Vec<u16> = (low..silent).step_by(step.into()).collect();
        let replies = join_all(sizes.iter().map(|size| ask(*size))).await;
        let got = |reply: &Reply| matches!(reply, Reply::Answered { .. });
        // One that was lost below a larger one that was answered is no matter.
        let Some(best) = replies.iter().rposition(got) else {
            return answered;
        };
        answered = Some(sizes[best]);
        silent = sizes.get(best + 1).copied().unwrap_or(silent);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use super::*;

    const FULL: u16 = 1_500;
    const HEADERS: u32 = 40;

    /// A path that takes `mtu` bytes, to a server that announces `mss`; what was asked for, and what came of it.
    fn through(mtu: u16, mss: Option<u32>, first: u16) -> (Vec<u16>, Round) {
        let asked = RefCell::new(Vec::new());
        let ask = |size| {
            asked.borrow_mut().push(size);
            ready(if size <= mtu {
                Reply::Answered { mss }
            } else {
                Reply::Silent
            })
        };
        let round = run(round(FULL, first, HEADERS, ask));
        (asked.into_inner(), round)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn users_largest_packet_is_asked_for() {
        let check = |mtu, mss, first, asked: &[u16], size, result| {
            let got = through(mtu, mss, first);
            assert_eq!(got, (asked.to_vec(), Round { size, result }), "{mtu} {mss:?} {first}");
        };
        use Answer::{Fits, TooSmall, Unanswered};
        check(1_500, Some(1_460), FULL, &[1_500], 1_500, Fits);
        check(1_500, None, FULL, &[1_500], 1_500, Fits);
        check(1_499, Some(1_460), FULL, &[1_500, SMALL_PACKET], 1_500, TooSmall);
        check(1_499, None, FULL, &[1_500, SMALL_PACKET], 1_500, TooSmall);
        // The server asks for smaller segments: those fit, or do not.
        check(1_400, Some(1_360), FULL, &[1_500, SMALL_PACKET, 1_400], 1_400, Fits);
        check(
            1_399,
            Some(1_360),
            FULL,
            &[1_500, SMALL_PACKET, 1_400, SMALL_PACKET],
            1_400,
            TooSmall,
        );
        // The next time that size comes first.
        check(1_400, Some(1_360), 1_400, &[1_400], 1_400, Fits);
        // It asks for larger ones again.
        check(
            1_400,
            Some(1_460),
            1_400,
            &[1_400, 1_500, SMALL_PACKET],
            1_500,
            TooSmall,
        );
        check(1_500, Some(1_460), 1_400, &[1_400, 1_500], 1_500, Fits);
        check(1_500, Some(1_360), FULL, &[1_500], 1_400, Fits);
        check(1_500, Some(9_000), FULL, &[1_500], 1_500, Fits);
        check(1_500, Some(70_000), FULL, &[1_500], 1_500, Fits);
        check(100, None, FULL, &[1_500, SMALL_PACKET], 1_500, Unanswered);
        // Nonsense of a server's is no size.
        check(
            1_400,
            Some(1),
            FULL,
            &[1_500, SMALL_PACKET, SMALL_PACKET],
            SMALL_PACKET,
            Fits,
        );
    }

    #[test]
    fn a_server_that_changes_its_mind_ends_the_round() {
        let flip = RefCell::new(false);
        let ask = |size| {
            ready(match size {
                SMALL_PACKET => Reply::Answered {
                    mss: Some(if flip.replace_with(|flip| !*flip) { 1_440 } else { 1_400 }),
                },
                _ => Reply::Silent,
            })
        };
        let round = run(round(FULL, FULL, HEADERS, ask));
        assert!(matches!(round.result, Answer::TooSmall | Answer::Unknown), "{round:?}");
    }

    #[test]
    fn the_largest_that_is_answered_is_found() {
        for mtu in [100, SMALL_PACKET, 257, 576, 1_280, 1_399, 1_400, 1_401, 1_498, 1_499] {
            let count = RefCell::new(0);
            let ask = |size| {
                *count.borrow_mut() += 1;
                ready(if size <= mtu {
                    Reply::Answered { mss: None }
                } else {
                    Reply::Silent
                })
            };
            let found = run(largest_answered(FULL, ask));
            assert_eq!(found, (mtu >= SMALL_PACKET).then_some(mtu));
            assert!(count.into_inner() <= 64);
        }
        // One packet that is lost below one that is not.
        let ask = |size| {
            ready(match size {
                SMALL_PACKET | 1_401.. => Reply::Silent,
                _ => Reply::Answered { mss: None },
            })
        };
        assert_eq!(run(largest_answered(FULL, ask)), Some(1_400));
    }
}
