//! `lbctl service list`, `lbctl service show`, `lbctl lookup`.

use std::net::{IpAddr, SocketAddr};

use super::status::{part, tone};
use super::table::{Cell, Table, left, right};
use super::units::{age, bar, bit_rate, bytes, count, grouped, micros, millis, percent, rate};
use super::{Tone, View, clean};
use crate::api::types::{
    Admin, BackendDetail, Check, Forward, FoundBy, FullSize, Health, Lookup, NextHop, PathMtu, Protocol, ServiceDetail,
    ServiceMode, ServiceSummary, StandingState,
};

/// Columns of a bar.
const BAR: usize = 8;

/// All services, one a line.
pub fn services(services: &[ServiceSummary], view: &View) -> String {
    if services.is_empty() {
        return "no services\n".to_owned();
    }
    let mut table = Table::new([
        left("SERVICE"),
        left("VIP"),
        left("FORWARD").optional(2),
        left("SERVE"),
        right(""),
        left("MODE"),
        right("PACKETS").optional(1),
        right("BYTES").optional(1),
        right("PACKETS/S"),
        right("RATE"),
    ]);
    for service in services {
        let counts = &service.backends;
        let tone = match tone(counts) {
            Tone::Plain if counts.total > 0 => Tone::Good,
            // Some of several are out: the service still serves.
            Tone::Bad if counts.serving > 0 => Tone::Warn,
            tone => tone,
        };
        let cells = [
            Cell::from(&service.name),
            vip(service.vip, service.protocol, service.port).into(),
            service.forward.name().into(),
            Cell::new(tone, bar(part(counts.serving.into(), counts.total.into()), BAR)),
            Cell::new(tone, format!("{}/{}", counts.serving, counts.total)),
            mode(service.mode),
            count(service.packets).into(),
            bytes(service.bytes).into(),
            rate(service.rate.packets_per_second).into(),
            bit_rate(service.rate.bits_per_second).into(),
        ];
        table.row(cells, []);
    }
    table.render(view)
}

/// How it is served, if that is unusual.
fn mode(mode: ServiceMode) -> Cell {
    match mode {
        ServiceMode::Normal => "".into(),
        ServiceMode::Starting => Cell::new(Tone::Warn, "starting"),
        ServiceMode::Panic => Cell::new(Tone::Bad, "PANIC"),
        ServiceMode::LastResort => Cell::new(Tone::Bad, "LAST RESORT"),
        ServiceMode::Sorry => Cell::new(Tone::Bad, "SORRY"),
        ServiceMode::Nobody => Cell::new(Tone::Bad, "NOBODY"),
    }
}

/// One service with its backends; under each what is wrong with it.
pub fn service(service: &ServiceDetail, view: &View) -> String {
    let mut text = format!(
        "{}  {}  {}\n",
        view.paint(Tone::Strong, &clean(&service.name)),
        vip(service.vip, service.protocol, service.port),
        service.forward,
    );
    let ring = grouped(service.ring_size.into());
    let settings = format!(
        "ring of {ring} slots, hash {}, tracking {}",
        service.hash, service.tracking
    );
    text.push_str(&view.paragraph(Tone::Plain, "", "  ", &settings));
    let (moving, settled) = (service.slots_moving, service.slots_settled);
    if moving > 0 || settled > 0 || service.flows_remembered > 0 {
        let changing = format!(
            "{} slots are moving, {} settled; {} flows are remembered",
            grouped(moving.into()),
            grouped(settled.into()),
            grouped(service.flows_remembered)
        );
        text.push_str(&view.paragraph(Tone::Plain, "", "  ", &changing));
    }
    text.push_str(&view.paragraph(Tone::Plain, "", "  ", &checks(service.check.as_ref())));
    let unprobed = |backend: &BackendDetail| backend.forward != Forward::L2 && backend.full_size == FullSize::NotProbed;
    if service.backends.iter().any(unprobed) {
        let unprobed = "full-size packets are not probed: that takes a check via vip other than exec";
        text.push_str(&view.paragraph(Tone::Plain, "", "  ", unprobed));
    }
    let serving = service.backends.iter().filter(|backend| backend.slots > 0).count();
    let tone = match serving {
        0 => Tone::Bad,
        serving if serving < service.backends.len() => Tone::Warn,
        _ => Tone::Good,
    };
    let traffic = format!(
        "{serving} of {} serve, {} packets/s, {}",
        super::counted(service.backends.len() as u64, "backend"),
        rate(service.rate.packets_per_second),
        bit_rate(service.rate.bits_per_second),
    );
    text.push_str(&view.paragraph(tone, "", "  ", &traffic));
    for warning in &service.warnings {
        text.push_str(&view.paragraph(Tone::Bad, "warning: ", "         ", warning));
    }
    let table = table(service, view).render(view);
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

/// Where a flow goes.
pub fn lookup(lookup: &Lookup, view: &View) -> String {
    let flow = format!("{} → {}/{}", lookup.source, lookup.destination, lookup.protocol);
    let slot = format!(
        "slot {} of {}",
        grouped(lookup.slot.into()),
        grouped(lookup.ring_size.into())
    );
    let service = clean(&lookup.service);
    match &lookup.backend {
        Some(backend) => {
            let address = lookup
                .address
                .map(|address| format!(" ({address})"))
                .unwrap_or_default();
            let backend = view.paint(Tone::Good, &clean(backend));
            format!("{flow}\nservice {service}, {slot}: backend {backend}{address}\n")
        }
        None => {
            let reason = view.paint(Tone::Bad, &clean(&lookup.reason));
            format!("{flow}\nservice {service}, {slot}: no backend, reason {reason}\n")
        }
    }
}

/// `192.0.2.10:80/tcp`, `[2001:db8::10]:443/tcp`.
fn vip(address: IpAddr, protocol: Protocol, port: u16) -> String {
    format!("{}/{protocol}", SocketAddr::new(address, port))
}

fn checks(check: Option<&Check>) -> String {
    let Some(check) = check else {
        return "no checks: its backends are always up".to_owned();
    };
    let target = check
        .target
        .as_deref()
        .map(|target| format!(" {target}"))
        .unwrap_or_default();
    format!(
        "check {}{target} on port {} via {} every {}, timeout {}, up after {}, down after {}",
        check.kind,
        check.port,
        check.via,
        millis(check.interval_ms),
        millis(check.timeout_ms),
        check.rise,
        check.fall,
    )
}

fn table(service: &ServiceDetail, view: &View) -> Table {
    let mut table = Table::new([
        left("BACKEND"),
        left("ADDRESS"),
        right("WEIGHT"),
        right("TIER"),
        left("STATE"),
        left("SHARE"),
        right(""),
        right("PACKETS/S").optional(1),
        right("RATE").optional(2),
        right("PACKETS").optional(4),
        right("BYTES").optional(4),
        right("PROBE").optional(3),
        left("FORWARD").optional(6),
        left("NEXT HOP").optional(5),
    ]);
    let largest = service.backends.iter().map(|backend| backend.share).fold(0.0, f64::max);
    for backend in &service.backends {
        let (tone, state) = state(backend, view);
        // The bars compare backends with one another: the largest share fills the column.
        let length = if largest > 0.0 { backend.share / largest } else { 0.0 };
        let cells = [
            Cell::from(&backend.name),
            backend.address.to_string().into(),
            grouped(backend.weight.into()).into(),
            tier(service, backend).into(),
            Cell::new(tone, state),
            bar(length, BAR).into(),
            percent(backend.share).into(),
            rate(backend.rate.packets_per_second).into(),
            bit_rate(backend.rate.bits_per_second).into(),
            count(backend.packets).into(),
            bytes(backend.bytes).into(),
            backend
                .last_probe
                .as_ref()
                .and_then(|probe| probe.rtt_us)
                .map(micros)
                .unwrap_or_default()
                .into(),
            backend.forward.name().into(),
            next_hop(&backend.next_hop).into(),
        ];
        table.row(cells, notes(backend, view));
    }
    table
}

/// What matters most: the operator's word, then the checks'.
fn state(backend: &BackendDetail, view: &View) -> (Tone, String) {
    let since = |state: &str| match backend.health_since_unix_ms {
        Some(then) => format!("{state} {}", age(then, view.now_unix_ms)),
        None => state.to_owned(),
    };
    let held = match backend.standing.state {
        StandingState::Pending => Some((Tone::Bad, "down, serving on")),
        StandingState::Falling => Some((Tone::Bad, "down, going")),
        StandingState::Rising => Some((Tone::Warn, "up, coming back")),
        StandingState::Damped => Some((Tone::Warn, "up, held out")),
        StandingState::Waiting => Some((Tone::Warn, "up, waiting")),
        StandingState::Standby => Some((Tone::Plain, "standby")),
        StandingState::Sorry => Some((Tone::Plain, "sorry")),
        // Its own word: the operator has said nothing.
        StandingState::Draining if backend.admin == Admin::Enabled => Some((Tone::Warn, "draining itself")),
        StandingState::Disabled if backend.admin == Admin::Enabled => Some((Tone::Warn, "in maintenance")),
        _ => None,
    };
    if let Some((tone, state)) = held {
        return (tone, state.to_owned());
    }
    match (backend.admin, backend.health) {
        (Admin::Disabled, Health::Down) => (Tone::Bad, "disabled, down".to_owned()),
        (Admin::Disabled, _) => (Tone::Warn, "disabled".to_owned()),
        (Admin::Draining, Health::Down) => (Tone::Bad, "draining, down".to_owned()),
        (Admin::Draining, _) => (Tone::Warn, "draining".to_owned()),
        (Admin::Enabled, Health::Down) => (Tone::Bad, since("down")),
        (Admin::Enabled, Health::Starting) => (Tone::Warn, since("starting")),
        (Admin::Enabled, Health::Up) => (Tone::Good, since("up")),
    }
}

fn notes(backend: &BackendDetail, view: &View) -> Vec<Cell> {
    let mut notes = Vec::new();
    if let Some(probe) = backend.last_probe.as_ref().filter(|probe| !probe.success) {
        let ago = match view.now_unix_ms.saturating_sub(probe.ended_unix_ms) {
            ..1000 => "just now".to_owned(),
            _ => age(probe.ended_unix_ms, view.now_unix_ms) + " ago",
        };
        let tone = if backend.health == Health::Up {
            Tone::Warn
        } else {
            Tone::Bad
        };
        notes.push(Cell::new(tone, format!("{} (last probe, {ago})", probe.reason)));
    }
    if let Some(why) = &backend.next_hop.unresolved {
        notes.push(Cell::new(Tone::Bad, format!("no next hop: {why}")));
    }
    if let Some(PathMtu { needed, mtu, found_by }) = backend.path_mtu {
        let known = match found_by {
            FoundBy::Route => "",
            FoundBy::Probe => " as probes show",
        };
        let note = match mtu {
            Some(mtu) => format!("full-size packets need {needed} bytes, the path MTU is {mtu}{known}"),
            None => format!("full-size packets need {needed} bytes and do not fit the path{known} (path MTU unknown)"),
        };
        notes.push(Cell::new(Tone::Bad, note));
    }
    if backend.full_size == FullSize::Unanswered {
        let note = "full-size packets are not checked: padded probes get no answer, not even small ones";
        notes.push(Cell::new(Tone::Warn, note));
    }
    notes.extend(standing_note(backend, view).map(|note| Cell::new(Tone::Warn, note)));
    if let Some(load) = backend.load.filter(|load| *load < 1.0) {
        let note = format!("its load leaves it {} of its weight", percent(load));
        notes.push(Cell::new(Tone::Warn, note));
    }
    if let Some(overridden) = &backend.overridden {
        let admin = overridden.admin.map(|admin| admin.name().to_owned());
        let weight = overridden
            .weight
            .map(|weight| format!("weight {weight} instead of {}", backend.configured_weight));
        let what: Vec<String> = admin.into_iter().chain(weight).collect();
        let ago = age(overridden.since_unix_ms, view.now_unix_ms);
        let mut note = format!("overridden {ago} ago: {}", what.join(", "));
        if let Some(ramp) = overridden.ramp {
            let left = age(view.now_unix_ms, ramp.end_unix_ms);
            note.push_str(&format!(", on its way from {}, there in {left}", ramp.from));
        }
        notes.push(Cell::new(Tone::Warn, note));
    }
    notes
}

/// Its tier, where there is more than one.
fn tier(service: &ServiceDetail, backend: &BackendDetail) -> String {
    let alike = |other: &BackendDetail| other.priority == backend.priority && !other.sorry;
    match backend.sorry {
        true => "sorry".to_owned(),
        false if service.backends.iter().all(alike) => String::new(),
        false => backend.priority.to_string(),
    }
}

/// What a backend waits for.
fn standing_note(backend: &BackendDetail, view: &View) -> Option<String> {
    let left = backend.standing.until_unix_ms.map(|until| age(view.now_unix_ms, until));
    match (backend.standing.state, left) {
        (StandingState::Damped, Some(left)) => Some(format!("it changed too often: held out for {left} more")),
        (StandingState::Waiting, Some(left)) => Some(format!("it comes back in {left}")),
        (StandingState::Waiting, None) => Some("it comes back when `lbctl failback` says so".to_owned()),
        (StandingState::Pending, _) => Some("it serves until `lbctl failover` says otherwise".to_owned()),
        (StandingState::Draining, left) => {
            let mut note = format!("{} flows remembered", grouped(backend.flows_remembered));
            if let Some(left) = left {
                note.push_str(&format!(", disabled in {left} at the latest"));
            }
            Some(note)
        }
        _ => None,
    }
}

/// `eth0 02:00:00:00:00:01 (10.0.0.1)`.
fn next_hop(hop: &NextHop) -> String {
    let gateway = hop.gateway.map(|gateway| format!("({gateway})"));
    let parts = [hop.interface.clone(), hop.mac.clone(), gateway];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// One line on a backend, for answers about it alone.
pub(super) fn backend_line(service: &str, backend: &BackendDetail, view: &View) -> String {
    let (tone, state) = state(backend, view);
    format!(
        "{}/{}: {}, weight {}, {} of the ring\n",
        clean(service),
        clean(&backend.name),
        view.paint(tone, &state),
        grouped(backend.weight.into()),
        percent(backend.share),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_vip_is_in_brackets() {
        let address = "2001:db8::10".parse().expect("an address");
        assert_eq!(vip(address, Protocol::Tcp, 443), "[2001:db8::10]:443/tcp");
    }
}
