//! The two-choice table: where services go, and who has to move for them.

use std::collections::{HashSet, VecDeque};

use lb_common::hash::service_places;
use lb_common::map::ServiceKey;

use super::layout::Layout;

/// A service that moves to its other place to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) key: ServiceKey,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// Finds a place for `key`: the moves that make it free, in the order in which they can be made, and the place itself.
pub(super) fn find(layout: &Layout, key: ServiceKey, mask: u32) -> Option<(Vec<Move>, u32)> {
    // Breadth first: the shortest chain of moves. Each step is a place that somebody could leave for its other one.
    let (first, second) = service_places(key, mask);
    let mut seen = HashSet::from([first, second]);
    let mut queue: VecDeque<(u32, Option<usize>)> = VecDeque::from([(first, None), (second, None)]);
    let mut steps: Vec<(u32, Option<usize>)> = Vec::new();
    while let Some((place, parent)) = queue.pop_front() {
        match layout.places[place as usize] {
            None => {
                let mut moves = Vec::new();
                let mut to = place;
                let mut step = parent;
                while let Some(index) = step {
                    let (from, parent) = steps[index];
                    if let Some(key) = layout.places[from as usize] {
                        moves.push(Move { key, from, to });
                    }
                    to = from;
                    step = parent;
                }
                return Some((moves, to));
            }
            Some(occupant) => {
                steps.push((place, parent));
                let (a, b) = service_places(occupant, mask);
                let other = if a == place { b } else { a };
                if seen.len() < 500 && seen.insert(other) {
                    queue.push_back((other, Some(steps.len() - 1)));
                }
            }
        }
    }
    None
}
