//! What is installed, read from the tables themselves.

use std::collections::HashMap;

use lb_common::hash::service_places;
use lb_common::map::{ServiceEntry, ServiceKey};

use super::regions::Regions;
use crate::bpf::tables::Tables;

/// One service as it is installed.
#[derive(Clone, Debug)]
pub struct InstalledService {
    /// Where its entry is.
    pub place: u32,
    /// Its entry.
    pub entry: ServiceEntry,
    /// The identities of its rows by number; 0 where a row is free.
    pub identities: Vec<u64>,
}

/// Everything that is installed.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The services by key.
    pub services: HashMap<ServiceKey, InstalledService>,
    /// For every place of the service table the key in it.
    pub(super) places: Vec<Option<ServiceKey>>,
    /// For every place its overflow mark.
    pub(super) overflow: Vec<u32>,
    /// Places that hold a second copy of a service, left by a daemon that stopped while it moved one.
    pub(super) duplicates: Vec<u32>,
    pub(super) rows: Regions,
    pub(super) slots: Regions,
}

impl Layout {
    /// Reads the tables. Entries that point outside of them are not taken for services.
    pub fn read(tables: &Tables) -> Self {
        let lengths = tables.lengths();
        let mut services = HashMap::new();
        let mut places = vec![None; lengths.services as usize];
        let mut overflow = vec![0; lengths.services as usize];
        let mut duplicates = Vec::new();
        for place in 0..lengths.services {
            let entry = tables.service(place);
            overflow[place as usize] = entry.overflow.into();
            if entry.word == 0 {
                continue;
            }
            let key = entry.key();
            places[place as usize] = Some(key);
            let end = |base: u32, room: u32| u64::from(base) + u64::from(room);
            let (first, second) = service_places(key, tables.service_mask());
            let sound = [first, second].contains(&place)
                && end(entry.ring_base(), entry.ring_room) <= u64::from(lengths.slots)
                && end(entry.backend_base(), entry.backend_room()) <= u64::from(lengths.rows)
                && entry.ring_size <= entry.ring_room;
            if !sound || services.contains_key(&key) {
                duplicates.push(place);
                continue;
            }
            let identities = (0..entry.backend_room())
                .map(|n| tables.row(entry.backend_base() + n).identity)
                .collect();
            services.insert(
                key,
                InstalledService {
                    place,
                    entry,
                    identities,
                },
            );
        }
        let used =
            |piece: fn(&ServiceEntry) -> (u32, u32)| services.values().map(|service| piece(&service.entry)).collect();
        let rows = Regions::new(lengths.rows, used(|entry| (entry.backend_base(), entry.backend_room())));
        let slots = Regions::new(lengths.slots, used(|entry| (entry.ring_base(), entry.ring_room)));
        Self {
            services,
            places,
            overflow,
            duplicates,
            rows,
            slots,
        }
    }
}
