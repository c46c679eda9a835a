//! What the balancer counts, and what its maps say of themselves.

use aya::maps::MapError;
use lb_common::map::{Counter, Meta, name};
use lb_common::reason::Reason;

use super::error::KernelError;
use super::program::Balancer;

impl Balancer {
    /// What a row of `PAIRS` has counted since the maps were made, over all CPUs.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn raw_pair(&self, row: u32) -> Result<Counter, KernelError> {
        let rows = self.tables.lengths().rows;
        if row >= rows {
            return Err(KernelError::Map {
                name: name::PAIRS,
                source: MapError::OutOfBounds {
                    index: row,
                    max_entries: rows,
                },
            });
        }
        let counts = (row as usize..self.pairs.len())
            .step_by(rows as usize)
            .map(|index| self.pairs.read(index));
        Ok(counts.fold(Counter::default(), |sum, count| Counter {
            packets: sum.packets.wrapping_add(count.packets),
            bytes: sum.bytes.wrapping_add(count.bytes),
        }))
    }

    /// What a row has counted for its present backend.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn pair(&self, row: u32) -> Result<Counter, KernelError> {
        let raw = self.raw_pair(row)?;
        let baseline = self.tables.baseline(row);
        Ok(Counter {
            packets: raw.packets.wrapping_sub(baseline.packets),
            bytes: raw.bytes.wrapping_sub(baseline.bytes),
        })
    }

    /// Packets by reason, over all CPUs; their sum is the packets received.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reasons(&self) -> Result<[u64; Reason::COUNT], KernelError> {
        let mut counts = [0; Reason::COUNT];
        for (number, count) in counts.iter_mut().enumerate() {
            let values = self.reasons.get(&(number as u32), 0);
            let values = values.map_err(|source| KernelError::Map {
                name: name::REASONS,
                source,
            })?;
            let from = self.tables.baseline(self.reason_baseline(number)).packets;
            *count = values
                .iter()
                .fold(0_u64, |sum, value| sum.wrapping_add(*value))
                .wrapping_sub(from);
        }
        // What was forwarded is counted in the rows only.
        let meta = self.meta()?;
        let mut forwarded = meta.forwarded_before;
        for row in 0..meta.rows_used {
            forwarded = forwarded.wrapping_add(self.raw_pair(row)?.packets);
        }
        counts[Reason::Forwarded as usize] = forwarded;
        Ok(counts)
    }

    /// Continues the counters of the maps that these replace, whatever these have counted themselves by now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn continue_reasons(&mut self, counts: &[u64; Reason::COUNT]) -> Result<(), KernelError> {
        // The program alone writes its counters, and never a packet less: what came before is a baseline below zero.
        for (number, count) in counts.iter().enumerate() {
            let baseline = Counter {
                packets: count.wrapping_neg(),
                bytes: 0,
            };
            self.tables.set_baseline(self.reason_baseline(number), baseline);
        }
        let meta = self.meta()?;
        self.set_meta(Meta {
            forwarded_before: counts[Reason::Forwarded as usize],
            ..meta
        })
    }

    /// Where in `BASELINES` a reason's is: behind those of the rows.
    fn reason_baseline(&self, number: usize) -> u32 {
        self.tables.lengths().rows + number as u32
    }

    /// What the maps say of themselves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn meta(&self) -> Result<Meta, KernelError> {
        self.meta.get(&0, 0).map_err(|source| KernelError::Map {
            name: name::META,
            source,
        })
    }

    /// Writes what the maps say of themselves.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_meta(&mut self, meta: Meta) -> Result<(), KernelError> {
        self.meta.set(0, meta, 0).map_err(|source| KernelError::Map {
            name: name::META,
            source,
        })
    }
}
