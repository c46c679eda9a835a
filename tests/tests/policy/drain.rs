//! Draining under live connections.

use std::thread::sleep;

use lb_tests::load::Session;

use super::*;

/// Asks each; how many are broken.
pub(super) fn broken(sessions: &mut [(Session, String)]) -> usize {
    let mut broken = 0;
    for (session, name) in sessions {
        broken += usize::from(session.ask(0).ok().as_ref() != Some(name));
    }
    broken
}

#[test]
fn a_drain_breaks_nothing_and_ends_at_its_time() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "drain_time = \"60s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let mut sessions = site.sessions(500)?;
    let on_it = sessions.iter().filter(|(_, name)| name == "web-2").count();
    ensure!(on_it > 100, "{on_it} connections to drain");
    edge.lbctl(&["backend", "drain", "web", "web-2", "--timeout", "8s"])?;
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let lost = broken(&mut sessions);
        ensure!(lost == 0, "{lost} broken after {:?}", begun.elapsed());
        rounds += 1;
        sleep(Duration::from_millis(500));
    }
    let shown = edge.api()?.get("/v1/services/web")?;
    let left = shown["backends"][1]["flows_remembered"].as_u64().unwrap_or(0);
    ensure!(left as usize >= on_it, "{left} of {on_it} flows are shown: {shown:#}");
    let text = edge.lbctl(&["service", "show", "web"])?;
    ensure!(text.contains("flows remembered, disabled in"), "{text}");
    wait_for(&edge, "the end of the drain", |service| {
        service["backends"][1]["admin"] == "disabled"
    })?;
    let took = begun.elapsed();
    println!(
        "500 connections, {on_it} on the drained backend: none broken in {rounds} rounds, disabled after {took:?}"
    );
    ensure!(
        took >= Duration::from_millis(7_900) && took < Duration::from_secs(11),
        "{took:?}"
    );
    ensure!(has(&events(&edge)?, "backend_drained", "web-2"));
    Ok(())
}

#[test]
fn a_drain_ends_when_its_connections_do() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "drain_time = \"2s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let mut sessions = site.sessions(100)?;
    edge.lbctl(&["backend", "drain", "web", "web-2", "--timeout", "10m"])?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let lost = broken(&mut sessions);
        ensure!(lost == 0, "{lost} broken after {:?}", begun.elapsed());
        sleep(Duration::from_millis(500));
    }
    let shown = edge.api()?.get("/v1/services/web")?;
    ensure!(shown["backends"][1]["admin"] == "draining", "{shown:#}");
    drop(sessions);
    let begun = Instant::now();
    wait_for(&edge, "the end of the drain", |service| {
        service["backends"][1]["admin"] == "disabled"
    })?;
    println!("the last connection ended: the drain {:?} later", begun.elapsed());
    Ok(())
}
