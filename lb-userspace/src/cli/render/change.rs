//! `lbctl check`, `lbctl plan`, `lbctl apply` and `lbctl backend`.

use super::service::backend_line;
use super::status::{detached, part};
use super::units::{grouped, millis, percent};
use super::{Tone, View, clean, counted};
use crate::api::report::{ApplyReport, BackendChanged, Change, ChangeAction, CheckReport, Confirmed, PlanReport};

/// Rings that are listed one by one; of more, only the sum is of interest.
const RINGS: usize = 20;

/// A file without errors.
pub fn check(report: &CheckReport, view: &View) -> String {
    let services = counted(report.services, "service");
    let backends = counted(report.backends, "backend");
    format!(
        "{}: {}, {services}, {backends}\n",
        clean(&report.file),
        view.paint(Tone::Good, "valid")
    ) + &disruptions(&report.disruptions, view)
}

/// What would change.
pub fn plan(plan: &PlanReport, view: &View) -> String {
    if plan.is_empty() {
        return "nothing would change\n".to_owned();
    }
    changes(plan, view)
}

/// What has changed.
pub fn apply(report: &ApplyReport, view: &View) -> String {
    let done = format!(
        "configuration {} is in force, after {}\n",
        report.generation,
        millis(report.took_ms)
    );
    let detached = detached(&report.detached, view);
    if report.plan.is_empty() {
        return format!("{detached}nothing has changed\n{done}");
    }
    detached + &changes(&report.plan, view) + &done
}

/// The backend as it is now.
pub fn backend_changed(changed: &BackendChanged, view: &View) -> String {
    let mut text = backend_line(&changed.service, &changed.backend, view);
    for warning in &changed.warnings {
        text.push_str(&view.paragraph(Tone::Warn, "warning: ", "         ", warning));
    }
    text
}

/// A failover or failback that an operator has confirmed.
pub fn confirmed(done: &Confirmed, what: &str, view: &View) -> String {
    let names = clean(&done.backends.join(", "));
    let mut text = format!("{what} of {} confirmed: {names}\n", clean(&done.service));
    for warning in &done.warnings {
        text.push_str(&view.paragraph(Tone::Warn, "warning: ", "         ", warning));
    }
    text
}

fn changes(plan: &PlanReport, view: &View) -> String {
    let mut text: String = plan.changes.iter().map(|change| one(change, view)).collect();
    for ring in plan.rings.iter().take(RINGS) {
        let share = percent(part(ring.moved.into(), ring.ring_size.into()));
        let (moved, size) = (grouped(ring.moved.into()), grouped(ring.ring_size.into()));
        let service = clean(&ring.service);
        let traffic = ring
            .traffic
            .map(|part| format!(", {} of its packets", percent(part)))
            .unwrap_or_default();
        text.push_str(&format!(
            "ring {service}: {moved} of {size} slots move ({share}){traffic}\n"
        ));
    }
    if let Some(others) = plan.rings.get(RINGS..).filter(|others| !others.is_empty()) {
        let moved = others.iter().map(|ring| u64::from(ring.moved)).sum();
        let rings = counted(others.len() as u64, "more ring");
        text.push_str(&format!("{rings}: {} slots move\n", grouped(moved)));
    }
    let writes: Vec<String> = plan
        .writes
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(what, number)| format!("{} {}", grouped(*number), clean(what)))
        .collect();
    if !writes.is_empty() {
        text.push_str(&view.paragraph(Tone::Faint, "writes: ", "        ", &writes.join(", ")));
    }
    text + &disruptions(&plan.disruptions, view)
}

fn disruptions(lines: &[String], view: &View) -> String {
    let line = |line: &String| view.paragraph(Tone::Bad, "BREAKS CONNECTIONS: ", "  ", line);
    lines.iter().map(line).collect()
}

fn one(change: &Change, view: &View) -> String {
    let (sign, tone) = match change.action {
        ChangeAction::Add => ("+", Tone::Good),
        ChangeAction::Remove => ("-", Tone::Bad),
        ChangeAction::Change => ("~", Tone::Warn),
    };
    let name = match (&change.service, &change.backend) {
        (Some(service), Some(backend)) => format!("backend {service}/{backend}"),
        (Some(service), None) => format!("service {service}"),
        (None, _) => "node".to_owned(),
    };
    let mut text = view.paint(tone, &format!("{sign} {}", clean(&name))) + "\n";
    for field in &change.fields {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "(none)".to_owned(), clean);
        let values = match change.action {
            ChangeAction::Add => value(&field.after),
            ChangeAction::Remove => value(&field.before),
            ChangeAction::Change => format!("{} → {}", value(&field.before), value(&field.after)),
        };
        text.push_str(&format!("    {}: {values}\n", clean(&field.field)));
    }
    text
}
