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

/// A daemon that is restarted more often than `drain_time` settles slots all the same.
#[test]
fn the_drain_time_goes_on_over_restarts() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "drain_time = \"12s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    edge.lbctl(&["backend", "drain", "web", "web-2"])?;
    let begun = Instant::now();
    let moving = |edge: &Edge<'_>| -> Result<u64> {
        let shown = edge.api()?.get("/v1/services/web")?;
        shown["slots_moving"].as_u64().context("slots_moving")
    };
    while begun.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(1_500));
        ensure!(moving(&edge)? > 0, "settled after {:?}, too early", begun.elapsed());
        edge.kill()?;
        edge.start_again()?;
    }
    let restarted = Instant::now();
    wait_until(
        "the slots to settle",
        Duration::from_secs(8),
        || Ok(moving(&edge)? == 0),
    )?;
    println!(
        "settled {:?} after the drain began, {:?} after the last restart",
        begun.elapsed(),
        restarted.elapsed()
    );
    ensure!(
        begun.elapsed() >= Duration::from_secs(12),
        "too early: {:?}",
        begun.elapsed()
    );
    Ok(())
}

/// A backend that is taken out of the file keeps its connections over a restart, and that is said.
#[test]
fn a_removed_backend_keeps_its_connections_over_a_restart() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "drain_time = \"5s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let mut sessions = site.sessions(120)?;
    let on_it = sessions.iter().filter(|(_, name)| name == "web-3").count();
    ensure!(on_it > 10, "{on_it} connections on the backend that goes");
    let without = site.file("", "drain_time = \"5s\"", &["", ""]);
    edge.rewrite(&without)?;
    edge.lbctl(&["reload"])?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(9) {
        let lost = broken(&mut sessions);
        ensure!(lost == 0, "{lost} broken after {:?}", begun.elapsed());
        let status = edge.lbctl(&["status"])?;
        ensure!(status.contains("web-3: taken out of the configuration"), "{status}");
        // What is kept is a second old at most.
        sleep(Duration::from_millis(1_500));
        edge.kill()?;
        edge.start_again()?;
    }
    let lost = broken(&mut sessions);
    ensure!(lost == 0, "{lost} broken at the end");
    println!("120 connections, {on_it} on the backend that was removed: none broken");
    drop(sessions);
    wait_until("it to be gone", Duration::from_secs(60), || {
        Ok(!edge.lbctl(&["status"])?.contains("web-3"))
    })
}
