//! `lbctl status`.

use super::table::{Cell, Table, left, right};
use super::units::{age, bar, bit_rate, bytes, count, grouped, percent, rate, seconds};
use super::{Tone, View, clean, counted};
use crate::api::types::{Acceptance, AttachMode, BackendCounts, Detached, Interface, Status, Totals, Usage};

/// Columns of a bar.
const BAR: usize = 16;

/// The interfaces without the program: what matters most stands first.
pub(super) fn detached(detached: &[Detached], view: &View) -> String {
    let mut text = String::new();
    for Detached {
        interface,
        message,
        since_unix_ms,
    } in detached
    {
        let ago = age(*since_unix_ms, view.now_unix_ms);
        let line = format!(
            "interface {} has no program, none of its packets is balanced: {} (for {ago})",
            clean(interface),
            clean(message)
        );
        text += &view.paragraph(Tone::Bad, "error: ", "       ", &line);
    }
    text
}

/// The node at a glance; warnings stand last, next to the prompt.
pub fn status(status: &Status, view: &View) -> String {
    let problem = status.config.problem.as_deref();
    let mut text = detached(&status.detached, view);
    text += &problem.map_or_else(String::new, |problem| {
        view.paragraph(Tone::Bad, "CONFIGURATION: ", "  ", problem)
    });
    text += &format!(
        "{}  lbd {}, process {}, up {}\n",
        view.paint(Tone::Strong, &clean(&status.node)),
        clean(&status.version),
        status.pid,
        seconds(status.uptime_seconds),
    );
    text.push_str(&view.paragraph(Tone::Plain, "", "  ", &configuration(status, view)));
    let summary = format!(
        "{}, {}",
        counted(status.services, "service"),
        backends(&status.backends)
    );
    text.push_str(&view.paragraph(tone(&status.backends), "", "  ", &summary));
    for table in [
        interfaces(&status.interfaces),
        traffic(&status.totals),
        capacity(status),
    ] {
        let table = table.render(view);
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table);
        }
    }
    for interface in status
        .interfaces
        .iter()
        .filter(|interface| !interface.offloads_disabled.is_empty())
    {
        let off = interface.offloads_disabled.join(", ");
        let line = format!("{}: switched off {}", clean(&interface.name), clean(&off));
        text.push_str(&view.paragraph(Tone::Plain, "  ", "    ", &line));
    }
    if !status.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &status.warnings {
        text.push_str(&view.paragraph(Tone::Warn, "warning: ", "         ", warning));
    }
    text
}

fn configuration(status: &Status, view: &View) -> String {
    let how = match status.config.by {
        Acceptance::Start => "read at the start",
        Acceptance::Apply => "applied",
        Acceptance::Reload => "reloaded",
    };
    let file = status.config.file.as_deref().unwrap_or("standard input");
    let ago = age(status.config.accepted_unix_ms, view.now_unix_ms);
    format!("configuration {} from {file}, {how} {ago} ago", status.generation)
}

/// `9 of 10 backends serve: 1 down`.
fn backends(counts: &BackendCounts) -> String {
    let mut text = format!(
        "{} of {} serve",
        grouped(counts.serving.into()),
        counted(counts.total, "backend")
    );
    let states = [
        (counts.down, "down"),
        (counts.starting, "starting"),
        (counts.draining, "draining"),
        (counts.disabled, "disabled"),
        (counts.unresolved, "without next hop"),
        (counts.standby, "on standby"),
        (counts.held, "held out"),
    ];
    let states: Vec<String> = states
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, state)| format!("{} {state}", grouped((*number).into())))
        .collect();
    if !states.is_empty() {
        text.push_str(": ");
        text.push_str(&states.join(", "));
    }
    text
}

/// How bad it is.
pub(super) fn tone(counts: &BackendCounts) -> Tone {
    if counts.serving + counts.standby >= counts.total && counts.serving > 0 || counts.total == 0 {
        Tone::Plain
    } else if counts.down > 0 || counts.unresolved > 0 || counts.serving == 0 {
        Tone::Bad
    } else {
        Tone::Warn
    }
}

fn interfaces(interfaces: &[Interface]) -> Table {
    let mut table = Table::new([
        left("INTERFACE"),
        left("XDP"),
        right("PROGRAM"),
        right("MTU"),
        left("LINK"),
    ]);
    for interface in interfaces {
        let mode = match interface.xdp_mode {
            AttachMode::Native => Tone::Good,
            AttachMode::Generic => Tone::Warn,
        };
        let link = if interface.up {
            Cell::new(Tone::Good, "up")
        } else {
            Cell::new(Tone::Bad, "down")
        };
        let cells = [
            Cell::from(&interface.name),
            Cell::new(mode, interface.xdp_mode.name()),
            interface.program_id.to_string().into(),
            interface.mtu.to_string().into(),
            link,
        ];
        table.row(cells, []);
    }
    table
}

fn traffic(totals: &Totals) -> Table {
    let mut table = Table::new([
        left("TRAFFIC"),
        right("PACKETS"),
        left("SHARE"),
        right(""),
        right("BYTES"),
        right("PACKETS/S"),
        right("RATE").optional(1),
    ]);
    let received = [
        "received".into(),
        count(totals.received).into(),
        "".into(),
        "".into(),
        "".into(),
        rate(totals.received_per_second).into(),
        "".into(),
    ];
    table.row(received, []);
    let parts = [
        ("forwarded", totals.forwarded, Tone::Good),
        ("passed", totals.passed, Tone::Plain),
        ("dropped", totals.dropped, Tone::Bad),
    ];
    for (name, packets, tone) in parts {
        let tone = if packets == 0 { Tone::Plain } else { tone };
        let share = part(packets, totals.received);
        let forwarded = name == "forwarded";
        let only_forwarded = |text: String| Cell::from(if forwarded { text } else { String::new() });
        let cells = [
            format!("  {name}").into(),
            count(packets).into(),
            Cell::new(tone, bar(share, BAR)),
            percent(share).into(),
            only_forwarded(bytes(totals.forwarded_bytes)),
            only_forwarded(rate(totals.rate.packets_per_second)),
            only_forwarded(bit_rate(totals.rate.bits_per_second)),
        ];
        table.row(cells, []);
    }
    table
}

fn capacity(status: &Status) -> Table {
    let mut table = Table::new([left("CAPACITY"), right("USED"), right("OF"), left("SHARE"), right("")]);
    let capacity = status.capacity;
    let rows = [
        ("services", capacity.services),
        ("backends", capacity.backends),
        ("ring slots", capacity.ring_slots),
    ];
    for (name, Usage { used, total }) in rows {
        let share = part(used, total);
        let tone = match share {
            share if share >= 0.95 => Tone::Bad,
            share if share >= 0.8 => Tone::Warn,
            _ => Tone::Plain,
        };
        let cells = [
            name.into(),
            grouped(used).into(),
            grouped(total).into(),
            Cell::new(tone, bar(share, BAR)),
            Cell::new(tone, percent(share)),
        ];
        table.row(cells, []);
    }
    table
}

/// `number` as a share of `total`, 0.0 ..= 1.0; nothing of nothing is 0.
pub(super) fn part(number: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { number as f64 / total as f64 }
}
