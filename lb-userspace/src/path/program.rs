//! The three programs that carry probes, and where they are attached.

use std::collections::{HashMap, HashSet};

use aya::maps::{HashMap as BpfMap, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use lb_common::map::Rewrite;
use lb_common::probe::name;

use super::PathError;
use super::wire::{HOST_END, PROBER_END};
use crate::bpf::link_fd;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// By tcx links (Linux 6.6), which end with the process.
    Tcx,
    /// As filters of a clsact qdisc, as on any kernel.
    Clsact,
}

impl Hook {
    /// What the running kernel has.
    pub fn of_kernel() -> Self {
        if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
            Hook::Tcx
        } else {
            Hook::Clsact
        }
    }
}

/// The programs, loaded.
pub(super) struct Programs {
    ebpf: Ebpf,
    hook: Hook,
    targets: BpfMap<MapData, u32, Rewrite>,
    answering: HashMap<u32, Answering>,
}

/// The program on an interface where answers arrive.
enum Answering {
    /// A tcx link.
    Link(FdLink),
    /// A filter, which goes with this.
    Filter(#[expect(dead_code, reason = "held: dropping it takes the filter off")] SchedClassifierLink),
}

impl Answering {
    /// Whether it may still be on its interface. What became of a filter is not known.
    fn is_whole(&self, ifindex: u32) -> bool {
        matches!(self, Answering::Filter(_)) || self.is_surely_whole(ifindex)
    }

    /// Whether it is known to be on its interface.
    fn is_surely_whole(&self, ifindex: u32) -> bool {
        let Answering::Link(link) = self else {
            return false;
        };
        let state = link.info().ok().and_then(|info| {
            let link = link_fd::by_id(info.id()).ok()?;
            link_fd::state(std::os::fd::AsFd::as_fd(&link)).ok()
        });
        state.is_some_and(|state| state.ifindex == ifindex)
    }
}

impl Programs {
    pub(super) fn load(object: &[u8], hook: Hook) -> Result<Self, PathError> {
        let refused = |error: &dyn std::error::Error| PathError::Program(chain(error));
        let mut ebpf = EbpfLoader::new().load(object).map_err(|error| refused(&error))?;
        let missing = || PathError::Program(format!("the object file has no {}", name::PROBES));
        let targets = ebpf.take_map(name::PROBES).ok_or_else(missing)?;
        let targets = BpfMap::try_from(targets).map_err(|error| refused(&error))?;
        for program in [name::LABEL, name::SEND, name::ANSWER] {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|error| PathError::Program(format!("{program}: {}", chain(&error))))?;
        }
        Ok(Self {
            ebpf,
            hook,
            targets,
            answering: HashMap::new(),
        })
    }

    /// On the prober's end of the wire; to be called in the prober's namespace.
    pub(super) fn attach_label(&mut self) -> Result<(), PathError> {
        self.attach(name::LABEL, PROBER_END, TcAttachType::Egress).map(drop)
    }

    /// On the host's end.
    pub(super) fn attach_send(&mut self) -> Result<(), PathError> {
        self.attach(name::SEND, HOST_END, TcAttachType::Ingress).map(drop)
    }

    pub(super) fn attach_answer(&mut self, interfaces: &HashSet<u32>) -> Result<(), PathError> {
        self.answering.retain(|ifindex, _| interfaces.contains(ifindex));
        let mut first = Ok(());
        for ifindex in interfaces {
            if self.answering.contains_key(ifindex) {
                continue;
            }
            // Of one that is gone the name may also be empty.
            let Some(interface) = nix::net::if_::if_indextoname(*ifindex)
                .ok()
                .filter(|name| !name.is_empty())
            else {
                continue;
            };
            match self.attach(name::ANSWER, &interface.to_string_lossy(), TcAttachType::Ingress) {
                Ok(link) => {
                    let answering = self.own(link)?;
                    self.answering.insert(*ifindex, answering);
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// Forgets interfaces that the kernel may have removed, and the program on them; says whether there were any. A link that is whole is
    /// kept: after lost messages, interfaces are named that never went.
    pub(super) fn forget_answers(&mut self, gone: impl Fn(u32) -> bool) -> bool {
        let forgotten: Vec<u32> = self
            .answering
            .iter()
            .filter(|(ifindex, answering)| gone(**ifindex) && !answering.is_surely_whole(**ifindex))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in &forgotten {
            match self.answering.remove(ifindex) {
                // Another interface may have the index now: nothing is to be taken off that one.
                Some(filter @ Answering::Filter(_)) => std::mem::forget(filter),
                // A link takes off itself alone.
                link => drop(link),
            }
        }
        !forgotten.is_empty()
    }

    /// Interfaces where answers should arrive, and which have lost the program.
    pub(super) fn lost_answers(&self) -> HashSet<u32> {
        let lost = |(ifindex, answering): &(&u32, &Answering)| !answering.is_whole(**ifindex);
        self.answering
            .iter()
            .filter(lost)
            .map(|(ifindex, _)| *ifindex)
            .collect()
    }

    fn own(&mut self, id: SchedClassifierLinkId) -> Result<Answering, PathError> {
        let link = classifier(&mut self.ebpf, name::ANSWER)?
            .take_link(id)
            .map_err(|error| PathError::Program(format!("{}: {}", name::ANSWER, chain(&error))))?;
        match self.hook {
            Hook::Tcx => {
                let link = FdLink::try_from(link);
                link.map(Answering::Link)
                    .map_err(|error| PathError::Program(format!("{}: {}", name::ANSWER, chain(&error))))
            }
            Hook::Clsact => Ok(Answering::Filter(link)),
        }
    }

    pub(super) fn set_target(&mut self, number: u32, rewrite: &Rewrite) -> Result<(), PathError> {
        self.targets
            .insert(number, rewrite, 0)
            .map_err(|error| PathError::Target {
                number,
                problem: chain(&error),
            })
    }

    pub(super) fn remove_target(&mut self, number: u32) -> Result<(), PathError> {
        self.targets.remove(&number).map_err(|error| PathError::Target {
            number,
            problem: chain(&error),
        })
    }

    fn attach(
        &mut self,
        program: &'static str,
        interface: &str,
        at: TcAttachType,
    ) -> Result<SchedClassifierLinkId, PathError> {
        let options = match self.hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Hook::Clsact => {
                // One that is there already serves as well; if there is none, attaching says so.
                let _ = qdisc_add_clsact(interface);
                // So does its filter, which may be there although it was forgotten; a second one would stay for ever.
                let _ = qdisc_detach_program(interface, at, program);
                TcAttachOptions::Netlink(NlOptions::default())
            }
        };
        let attached = classifier(&mut self.ebpf, program)?.attach_with_options(interface, at, options);
        attached.map_err(|error: ProgramError| PathError::Attach {
            program,
            interface: interface.to_owned(),
            problem: chain(&error),
        })
    }
}

/// Removes the filters of a daemon that was killed. tcx links end with their process.
pub(super) fn clear() {
    for interface in nix::net::if_::if_nameindex().iter().flatten() {
        // Most interfaces have none.
        let _ = qdisc_detach_program(&interface.name().to_string_lossy(), TcAttachType::Ingress, name::ANSWER);
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut SchedClassifier, PathError> {
    let found = ebpf.program_mut(program);
    found
        .and_then(|found| found.try_into().ok())
        .ok_or_else(|| PathError::Program(format!("the object file has no {program}")))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
