//! Finding room in a table.

/// Free pieces of a table, for giving out; what is freed during a plan does not come back within it.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    /// Start and length, by start.
    free: Vec<(u32, u32)>,
}

impl Regions {
    /// All of a table of `len` but the pieces in use, which are (start, length).
    pub(super) fn new(len: u32, mut used: Vec<(u32, u32)>) -> Self {
        used.sort_unstable();
        let mut free = Vec::new();
        let mut next = 0;
        for (start, length) in used {
            if start > next {
                free.push((next, start - next));
            }
            next = next.max(start.saturating_add(length));
        }
        if len > next {
            free.push((next, len - next));
        }
        Self { free }
    }

    /// The first piece of `length`.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        let index = self.free.iter().position(|(_, room)| *room >= length)?;
        let (start, room) = self.free[index];
        if room == length {
            self.free.remove(index);
        } else {
            self.free[index] = (start + length, room - length);
        }
        Some(start)
    }

    /// The longest piece.
    pub(super) fn longest(&self) -> u32 {
        self.free.iter().map(|(_, room)| *room).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_out_what_is_free_and_nothing_twice() {
        let mut regions = Regions::new(100, vec![(90, 5), (10, 20)]);
        assert_eq!(regions.longest(), 60);
        assert_eq!(regions.take(10), Some(0));
        assert_eq!(regions.take(50), Some(30));
        assert_eq!(regions.take(11), None);
        assert_eq!(regions.take(10), Some(80));
        assert_eq!(regions.take(5), Some(95));
        assert_eq!(regions.take(1), None);
    }
}
