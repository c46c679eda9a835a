//! `lbctl stats` and `lbctl simulate`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use lb_common::reason::{Fate, Reason};

use super::status::part;
use super::table::{Cell, Table, left, right};
use super::units::{bar, bit_rate, bytes, count, grouped, percent, rate};
use super::{Tone, View, counted};
use crate::api::report::{SimulatedPacket, Verdict};
use crate::api::types::{ServiceStats, Stats};

/// Columns of a bar.
const BAR: usize = 12;

/// The counters; with rates, if there are earlier ones and the time since.
pub fn stats(stats: &Stats, since: Option<(&Stats, Duration)>, view: &View) -> String {
    let since = since.map(|(before, elapsed)| Since::new(before, elapsed));
    let mut text = pairs(stats, since.as_ref()).render(view);
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&reasons(stats, since.as_ref()).render(view));
    let silent = stats.reasons.values().filter(|packets| **packets == 0).count() as u64;
    if silent > 0 {
        text.push_str(&view.paint(Tone::Faint, &format!("{} without packets", counted(silent, "reason"))));
        text.push('\n');
    }
    text
}

/// What became of each packet.
pub fn simulation(packets: &[SimulatedPacket], view: &View) -> String {
    let mut table = Table::new([
        right("PACKET"),
        left("VERDICT"),
        left("REASON"),
        left("SERVICE"),
        left("BACKEND"),
        right("IN"),
        right("OUT"),
    ]);
    let mut verdicts = BTreeMap::<&str, u64>::new();
    for (number, packet) in packets.iter().enumerate() {
        let (tone, verdict) = match packet.verdict {
            Verdict::Tx => (Tone::Good, "tx"),
            Verdict::Redirect => (Tone::Good, "redirect"),
            Verdict::Pass => (Tone::Plain, "pass"),
            Verdict::Drop => (Tone::Bad, "drop"),
        };
        *verdicts.entry(verdict).or_default() += 1;
        let cells = [
            (number + 1).to_string().into(),
            Cell::new(tone, verdict),
            Cell::new(tone, &packet.reason),
            packet.service.as_deref().unwrap_or("-").into(),
            packet.backend.as_deref().unwrap_or("-").into(),
            packet.len_in.to_string().into(),
            packet.len_out.to_string().into(),
        ];
        table.row(cells, []);
    }
    let verdicts: Vec<String> = verdicts
        .iter()
        .map(|(verdict, number)| format!("{} {verdict}", grouped(*number)))
        .collect();
    let mut text = table.render(view);
    text.push_str(&counted(packets.len() as u64, "packet"));
    if !verdicts.is_empty() {
        text.push_str(&format!(": {}", verdicts.join(", ")));
    }
    text.push('\n');
    text
}

/// Earlier counters, by name.
struct Since<'a> {
    services: HashMap<&'a str, HashMap<&'a str, (u64, u64)>>,
    reasons: &'a BTreeMap<String, u64>,
    seconds: f64,
}

impl<'a> Since<'a> {
    fn new(before: &'a Stats, elapsed: Duration) -> Self {
        let backends = |service: &'a ServiceStats| {
            let backends = service.backends.iter();
            backends
                .map(|backend| (backend.name.as_str(), (backend.packets, backend.bytes)))
                .collect()
        };
        Self {
            services: before
                .services
                .iter()
                .map(|service| (service.name.as_str(), backends(service)))
                .collect(),
            reasons: &before.reasons,
            seconds: elapsed.as_secs_f64().max(0.001),
        }
    }

    /// Packets and bytes of a backend since then. New maps begin at zero: then all is new.
    fn backend(&self, service: &str, backend: &str, packets: u64, bytes: u64) -> (f64, f64) {
        let before = self
            .services
            .get(service)
            .and_then(|backends| backends.get(backend))
            .copied();
        let (packets_before, bytes_before) = before.unwrap_or_default();
        let fresh = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now) as f64 / self.seconds;
        (fresh(packets, packets_before), fresh(bytes, bytes_before))
    }

    fn reason(&self, name: &str, packets: u64) -> f64 {
        let before = self.reasons.get(name).copied().unwrap_or_default();
        packets.checked_sub(before).unwrap_or(packets) as f64 / self.seconds
    }
}

fn pairs(stats: &Stats, since: Option<&Since<'_>>) -> Table {
    let mut table = Table::new([
        left("SERVICE, BACKEND"),
        right("PACKETS"),
        left("SHARE").optional(1),
        right(""),
        right("BYTES"),
        right("PACKETS/S"),
        right("RATE"),
    ]);
    for service in &stats.services {
        let rates: Vec<Option<(f64, f64)>> = service
            .backends
            .iter()
            .map(|backend| {
                since.map(|since| since.backend(&service.name, &backend.name, backend.packets, backend.bytes))
            })
            .collect();
        let sum = rates
            .iter()
            .copied()
            .flatten()
            .reduce(|(p, b), (packets, bytes)| (p + packets, b + bytes));
        let strong = |text: String| Cell::new(Tone::Strong, text);
        let [packets_rate, bits_rate] = rate_cells(sum);
        let cells = [
            strong(service.name.clone()),
            strong(count(service.packets)),
            "".into(),
            "".into(),
            strong(bytes(service.bytes)),
            packets_rate,
            bits_rate,
        ];
        table.row(cells, []);
        for (backend, rates) in service.backends.iter().zip(rates) {
            let share = part(backend.packets, service.packets);
            let [packets_rate, bits_rate] = rate_cells(rates);
            let cells = [
                format!("  {}", backend.name).into(),
                count(backend.packets).into(),
                bar(share, BAR).into(),
                percent(share).into(),
                bytes(backend.bytes).into(),
                packets_rate,
                bits_rate,
            ];
            table.row(cells, []);
        }
    }
    table
}

/// Packets a second, and bits.
fn rate_cells(rates: Option<(f64, f64)>) -> [Cell; 2] {
    match rates {
        Some((packets, bytes)) => [rate(packets).into(), bit_rate(bytes * 8.0).into()],
        None => ["".into(), "".into()],
    }
}

/// The reasons that have packets, the commonest first.
fn reasons(stats: &Stats, since: Option<&Since<'_>>) -> Table {
    let mut table = Table::new([
        left("REASON"),
        right("PACKETS"),
        left("SHARE").optional(1),
        right(""),
        right("PACKETS/S"),
        left("MEANING").optional(2).prose(),
    ]);
    let rate_of = |name: &str, packets| since.map(|since| rate(since.reason(name, packets))).unwrap_or_default();
    let before = since
        .map(|since| since.reasons.values().sum::<u64>())
        .unwrap_or_default();
    let all = since.map(|since| {
        let fresh = stats.received.checked_sub(before).unwrap_or(stats.received);
        rate(fresh as f64 / since.seconds)
    });
    let strong = |text: String| Cell::new(Tone::Strong, text);
    let cells = [
        strong("received".to_owned()),
        strong(count(stats.received)),
        "".into(),
        "".into(),
        all.unwrap_or_default().into(),
        "".into(),
    ];
    table.row(cells, []);
    let mut rows: Vec<(&String, u64)> = stats.reasons.iter().map(|(name, packets)| (name, *packets)).collect();
    rows.retain(|(_, packets)| *packets > 0);
    rows.sort_by(|(first, a), (second, b)| b.cmp(a).then(first.cmp(second)));
    for (name, packets) in rows {
        let known = Reason::ALL.iter().find(|reason| reason.name() == name);
        let tone = match known.map(|reason| reason.fate()) {
            Some(Fate::Forwarded) => Tone::Good,
            Some(Fate::Dropped) => Tone::Bad,
            Some(Fate::Passed) | None => Tone::Plain,
        };
        let share = part(packets, stats.received);
        let cells = [
            Cell::new(tone, format!("  {name}")),
            count(packets).into(),
            Cell::new(tone, bar(share, BAR)),
            percent(share).into(),
            rate_of(name, packets).into(),
            Cell::new(Tone::Faint, known.map(|reason| meaning(*reason)).unwrap_or_default()),
        ];
        table.row(cells, []);
    }
    table
}

/// The first sentence of a reason's explanation, without its full stop.
fn meaning(reason: Reason) -> &'static str {
    let text = reason.explanation().trim();
    let end = text.find(". ").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).trim_end_matches('.')
}
