//! Two nodes of a fleet: the same services and backends, in files of different order, and with different pasts.
//!
//! Both must have the same rings and send every flow to the same backend, without having exchanged a word.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use lb_common::map::{Meta, NOBODY, ServiceKey};
use lb_tests::kernel::random_packets;
use lb_tests::packet::Packet;
use lb_userspace::bpf::program::Balancer;
use lb_userspace::config;
use lb_userspace::daemon::kernel::settings_for;
use lb_userspace::model::{Model, Service, identity};
use lb_userspace::object;
use lb_userspace::plan::apply::{apply, rows_used};
use lb_userspace::plan::layout::Layout;
use lb_userspace::plan::make::plan;
use lb_userspace::plan::{Scope, WantedService};
use lb_userspace::ring::{Ring, Share};
use lb_userspace::simulate::{NEXT_HOP, OWN_MAC, SOURCE_V4, SOURCE_V6};
use lb_userspace::wish::{self, BackendNow, Way};

const FLOWS: u32 = 100_000;
const SERVICES: u32 = 12;

/// A service's table, and those of its backends.
type Tables = (String, Vec<String>);

#[test]
fn the_same_rings_and_choices_from_files_of_another_order() {
    let mut rng = Rng::with_seed(7);
    let mut tables: Vec<Tables> = (0..SERVICES).map(service).collect();
    let first = Node::new(&[&file(&tables)]);
    let forwards = file(&tables);
    // The other was once without half of its services, then without half of its backends.
    let half = file(&tables[..SERVICES as usize / 2]);
    rng.shuffle(&mut tables);
    tables.iter_mut().for_each(|(_, backends)| rng.shuffle(backends));
    let shuffled = file(&tables);
    assert_ne!(shuffled, forwards);
    let fewer: Vec<Tables> = tables
        .iter()
        .map(|(head, backends)| (head.clone(), backends[..backends.len() / 2].to_vec()))
        .collect();
    let second = Node::new(&[&half, &file(&fewer), &shuffled]);

    let (rings, others) = (first.rings(), second.rings());
    assert_eq!(rings.len(), SERVICES as usize);
    for (name, ring) in &rings {
        assert!(ring == &others[name], "the rings of {name} differ");
        let owners: std::collections::HashSet<_> = ring.iter().collect();
        assert!(owners.len() > 3, "{name}: {owners:?}");
    }
    let mut chosen: HashMap<String, u32> = HashMap::new();
    let flows = random_packets(FLOWS);
    for number in 0..flows {
        let frame = flow(&mut rng);
        let choice = first.choice(&frame);
        assert_eq!(choice, second.choice(&frame), "flow {number}: {frame:02x?}");
        *chosen.entry(choice).or_default() += 1;
    }
    // Nobody is out of it but those that are down.
    println!("{flows} flows, {} backends, alike on both nodes", chosen.len());
    assert!(chosen.len() > 90, "{chosen:?}");
    assert!(chosen.keys().all(|name| !name.ends_with("/b1")), "{chosen:?}");
}

fn service(number: u32) -> Tables {
    let v6 = number % 2 == 1;
    let protocol = if number % 3 == 2 { "udp" } else { "tcp" };
    let hash = ["5-tuple", "5-tuple", "source", "source-dport"][number as usize % 4];
    let tracking = ["adaptive", "never", "adaptive"][number as usize % 3];
    let ring_size = [65_537, 10_007, 251][number as usize % 3];
    let head = format!(
        "\n[[service]]\nname = \"s{number}\"\nvip = \"{}\"\nprotocol = \"{protocol}\"\nport = 443\nforward = \"ipip\"\n\
         hash = \"{hash}\"\ntracking = \"{tracking}\"\nring_size = {ring_size}\n",
        vip(number)
    );
    let backend = |index: u32| {
        let address: IpAddr = if (index + number).is_multiple_of(3) {
            Ipv6Addr::from_bits((0xFD00 << 112) + u128::from(number << 8 | index) + 1).into()
        } else {
            Ipv4Addr::from_bits(0x0A00_0001 + (number << 8 | index)).into()
        };
        assert!(v6 == vip(number).is_ipv6());
        format!(
            "[[service.backend]]\nname = \"b{index}\"\naddress = \"{address}\"\nweight = {}\n",
            1 + index * 7 % 5
        )
    };
    (head, (0..8 + number).map(backend).collect())
}

fn vip(number: u32) -> IpAddr {
    if number % 2 == 1 {
        Ipv6Addr::from_bits((0x2001_0DB8_0001 << 80) + u128::from(number) + 1).into()
    } else {
        Ipv4Addr::from_bits(0xC000_0201 + number).into()
    }
}

fn file(tables: &[Tables]) -> String {
    let services = tables
        .iter()
        .map(|(head, backends)| format!("{head}{}", backends.concat()));
    let node = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"0x5eed\"\n".to_owned();
    node + &services.collect::<String>()
}

fn flow(rng: &mut Rng) -> Vec<u8> {
    let number = rng.u32(..SERVICES);
    let client: IpAddr = if number % 2 == 1 {
        Ipv6Addr::from_bits((0x2001_0DB8 << 96) + u128::from(rng.u64(..))).into()
    } else {
        Ipv4Addr::from_bits(rng.u32(..)).into()
    };
    let packet = Packet::between(client, vip(number));
    let port = rng.u16(..);
    if number % 3 == 2 {
        packet.udp(port, 443)
    } else {
        packet.tcp(port, 443)
    }
    .build()
}

/// The program loaded, and filled from one file after the other.
struct Node {
    balancer: Balancer,
    /// Service and backend by row.
    rows: HashMap<u32, String>,
    services: HashMap<ServiceKey, String>,
}

impl Node {
    fn new(files: &[&str]) -> Self {
        let models: Vec<Model> = files
            .iter()
            .map(|file| config::parse(file, "file").expect("a good file").model)
            .collect();
        let last = models.last().expect("a file");
        let mut balancer = Balancer::load(object::BALANCE, settings_for(last, None)).expect("root");
        let mut rows = 0;
        for model in &models {
            let wanted: Vec<WantedService> = model.services.iter().map(wanted).collect();
            let plan = plan(&balancer.tables, &wanted, Scope::Everything).expect("there is room");
            rows = rows_used(&plan).max(rows);
            let meta = balancer.meta().expect("META");
            balancer
                .set_meta(Meta {
                    rows_used: rows,
                    ..meta
                })
                .expect("META");
            apply(&plan, &balancer.tables, |row| balancer.raw_pair(row)).expect("counters");
        }
        let layout = Layout::read(&balancer.tables);
        let mut rows = HashMap::new();
        for service in &last.services {
            let installed = &layout.services[&service.key()];
            for backend in &service.backends {
                let number = installed
                    .identities
                    .iter()
                    .position(|one| *one == identity(&backend.name));
                let row = installed.entry.backend_base() + number.expect("an installed backend") as u32;
                rows.insert(row, format!("{}/{}", service.name, backend.name));
            }
        }
        let services = last
            .services
            .iter()
            .map(|service| (service.key(), service.name.clone()))
            .collect();
        Self {
            balancer,
            rows,
            services,
        }
    }

    /// For each service the owner of every slot, by name. A slot that is still moving counts as its new owner's.
    fn rings(&self) -> HashMap<String, Vec<&str>> {
        let tables = &self.balancer.tables;
        let owner = |base: u32, number: u16| {
            if number == NOBODY {
                ""
            } else {
                &self.rows[&(base + u32::from(number))]
            }
        };
        (0..tables.lengths().services)
            .map(|place| tables.service(place))
            .filter_map(|entry| Some((self.services.get(&entry.key())?.clone(), entry)))
            .map(|(name, entry)| {
                let positions = entry.ring_base()..entry.ring_base() + entry.ring_size;
                let owners = positions.map(|position| owner(entry.backend_base(), tables.slot(position).current()));
                (name, owners.collect())
            })
            .collect()
    }

    /// What the loaded program says of a flow that begins.
    fn choice(&self, frame: &[u8]) -> String {
        match self.balancer.run_lookup(frame).expect("a look-up") {
            Ok(row) => self.rows[&row].clone(),
            Err(reason) => reason.name().to_owned(),
        }
    }
}

/// As the daemon would have it; each service's `b1` is down, and `b2` has just come up.
fn wanted(service: &Service) -> WantedService {
    let weights: Vec<u32> = service.backends.iter().map(|backend| backend.weight).collect();
    let ring = Ring::populate(&wish::members(service, &weights), service.ring_size);
    let now = service.backends.iter().map(|backend| {
        let way = Way {
            ifindex: 0,
            source_mac: OWN_MAC,
            destination_mac: NEXT_HOP,
            tunnel_source: Some(match backend.address {
                IpAddr::V4(_) => SOURCE_V4.into(),
                IpAddr::V6(_) => SOURCE_V6.into(),
            }),
        };
        BackendNow {
            rewrite: Some(wish::rewrite(service.vip, backend, &way).expect("a way")),
            share: match backend.name.as_str() {
                "b1" => Share::OUT,
                "b2" => Share(20_000),
                _ => Share::FULL,
            },
            serves: backend.name != "b1",
        }
    });
    wish::wanted(service, &ring, &now.collect::<Vec<_>>())
}
