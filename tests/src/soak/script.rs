//! What is done next, by a seed.

use std::collections::VecDeque;

use fastrand::Rng;
use nix::sys::signal::Signal;

use super::stage::{Admin, BACKENDS, Bring, SERVICES, Server, Step, Wanted};

/// Each service keeps so many backends for new connections.
const ENOUGH: usize = 3;

/// Steps, one after the other, without an end.
pub struct Script {
    random: Rng,
    /// What a longer story has still to come.
    ahead: VecDeque<Step>,
}

impl Script {
    /// The same seed gives the same steps.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            // An ordinary rolling restart comes first, so that the shortest soak has one.
            ahead: rolling_restart(0).into(),
        }
    }

    /// The next step that can be done.
    pub fn next(&mut self, wanted: &Wanted) -> Step {
        loop {
            let step = self.ahead.pop_front().unwrap_or_else(|| self.draw(wanted));
            if fits(step, wanted) {
                return step;
            }
        }
    }

    fn draw(&mut self, wanted: &Wanted) -> Step {
        let random = &mut self.random;
        let (service, backend) = (random.usize(0..SERVICES.len()), random.usize(0..BACKENDS));
        match random.u32(0..100) {
            0..4 => Step::Rest,
            4..18 => Step::Admin(service, backend, Admin::Draining),
            18..40 => match wanted.members[service][backend].admin {
                Admin::Enabled => Step::AdminAll(backend, Admin::Enabled),
                _ => Step::Admin(service, backend, Admin::Enabled),
            },
            40..44 => Step::Admin(service, backend, Admin::Disabled),
            44..52 => Step::Weight(service, backend, [25, 50, 100, 200][random.usize(0..4)]),
            52..57 => Step::Server(backend, Server::Dead),
            57..60 => Step::Server(backend, Server::Frozen),
            60..72 => Step::Server(backend, Server::Runs),
            72..78 => Step::InFile(backend, false, bring(random)),
            78..88 => Step::InFile(backend, true, bring(random)),
            88..94 => Step::Restart([Signal::SIGKILL, Signal::SIGTERM][random.usize(0..2)]),
            _ => {
                self.ahead = rolling_restart(backend).into();
                Step::AdminAll(backend, Admin::Draining)
            }
        }
    }
}

/// Drained, stopped, started within the drain time, and enabled after it.
fn rolling_restart(backend: usize) -> [Step; 5] {
    [
        Step::AdminAll(backend, Admin::Draining),
        Step::Server(backend, Server::Dead),
        Step::Server(backend, Server::Runs),
        Step::Rest,
        Step::AdminAll(backend, Admin::Enabled),
    ]
}

fn bring(random: &mut Rng) -> Bring {
    [Bring::Reload, Bring::ApplyFile, Bring::ApplyOther][random.usize(0..3)]
}

/// Whether a step changes something and leaves every service enough.
fn fits(step: Step, wanted: &Wanted) -> bool {
    let changes = match step {
        Step::Rest | Step::Restart(_) => true,
        Step::Admin(service, backend, admin) => {
            let now = wanted.members[service][backend].admin;
            wanted.in_file[backend] && now != admin
        }
        Step::AdminAll(backend, admin) => {
            let mut members = wanted.members.iter().map(|members| members[backend].admin);
            wanted.in_file[backend] && members.any(|now| now != admin)
        }
        Step::Weight(service, backend, weight) => {
            wanted.in_file[backend] && wanted.members[service][backend].weight != weight
        }
        Step::Server(backend, server) => {
            let now = wanted.servers[backend];
            now != server && (now == Server::Runs || server == Server::Runs)
        }
        Step::InFile(backend, present, _) => wanted.in_file[backend] != present,
    };
    let takes = |service: usize, backend: usize| match step {
        Step::Admin(of, this, admin) => (of, this) == (service, backend) && admin != Admin::Enabled,
        Step::AdminAll(this, admin) => this == backend && admin != Admin::Enabled,
        Step::Server(this, server) => this == backend && server != Server::Runs,
        Step::InFile(this, present, _) => this == backend && !present,
        Step::Rest | Step::Restart(_) | Step::Weight(..) => false,
    };
    let takes_some = (0..SERVICES.len()).any(|service| (0..BACKENDS).any(|backend| takes(service, backend)));
    let left = |service: usize| {
        let accepting = wanted.accepting(service).into_iter();
        accepting.filter(|backend| !takes(service, *backend)).count()
    };
    changes && (!takes_some || (0..SERVICES.len()).all(|service| left(service) >= ENOUGH))
}
