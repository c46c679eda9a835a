//! All backends down at once and back, and one that flaps every second.

use std::thread::sleep;
use std::time::Instant;

use super::*;

/// All servers are killed, and started again.
pub(super) fn all_down(site: &Site, edge: &Edge, parts: &mut Parts) -> Result<Vec<Row>> {
    let watches: Vec<Watch> = site
        .services
        .iter()
        .map(|service| Watch::start(site, edge, service))
        .collect::<Result<_>>()?;
    let last = newest(edge)?;
    let dropped = no_backend(edge)?;
    sleep(Duration::from_millis(300));
    let begun = SystemTime::now();
    let offsets: Vec<Duration> = watches.iter().map(Watch::now).collect();
    for server in &mut parts.servers {
        server.kill()?;
    }
    let mut lost = Vec::new();
    for service in &site.services {
        lost.push(wait_event(edge, last, "service_lost", &service.name, None)?);
    }
    sleep(Duration::from_secs(1));
    let dropped = no_backend(edge)? - dropped;
    ensure!(dropped > 0, "nothing was counted as dropped for want of a backend");
    let last = newest(edge)?;
    let restarted = SystemTime::now();
    for (server, backend) in parts.servers.iter_mut().zip(&site.net.backends) {
        server.start_again(&backend.host)?;
    }
    let mut back = Vec::new();
    for service in &site.services {
        back.push(wait_event(edge, last, "service_back", &service.name, None)?);
    }
    all_up(site, edge)?;
    sleep(Duration::from_millis(1500));
    let mut rows = Vec::new();
    for (number, (watch, service)) in watches.into_iter().zip(&site.services).enumerate() {
        let since = |event: &Value, begin: SystemTime| -> Result<Duration> {
            Ok(at(event)?.duration_since(begin).unwrap_or_default())
        };
        let (flows, moved) = watch.moved(edge)?;
        let seen = watch.stop_load(offsets[number], since(&back[number], begun)?)?;
        let way_back = since(&back[number], restarted)?;
        rows.push(Row {
            service: service.name.clone(),
            fault: "all backends down",
            evicted: since(&lost[number], begun)?,
            seen: Seen { flows, moved, ..seen },
            event: format!(
                "{}; back {} ms after the servers",
                sentence(&lost[number]),
                way_back.as_millis()
            ),
        });
    }
    println!("all backends down: {dropped} packets dropped as no_backend");
    Ok(rows)
}

fn no_backend(edge: &Edge) -> Result<u64> {
    edge.api()?.get("/v1/stats")?["reasons"]["no_backend"]
        .as_u64()
        .context("a counter")
}

const DAMPING: &str = "damping = { changes = 2, half_life = \"5s\", max_out = \"60s\" }";
const ROUNDS: u32 = 12;

/// One backend answers with 500 every other second. The damper holds it out for longer and longer, then lets it back.
pub(super) fn flapping(site: &Site, edge: &Edge, parts: &Parts, wrong: &mut Vec<String>) -> Result<Vec<Row>> {
    edge.apply(&site.file(DAMPING))?;
    let mut watches: Vec<Watch> = site
        .services
        .iter()
        .map(|service| Watch::start(site, edge, service))
        .collect::<Result<_>>()?;
    let last = newest(edge)?;
    sleep(Duration::from_millis(300));
    let begun = SystemTime::now();
    let start = Instant::now();
    let offsets: Vec<Duration> = watches.iter().map(Watch::now).collect();
    let mut tally = vec![Seen::default(); watches.len()];
    let mut held: Vec<Vec<Duration>> = vec![Vec::new(); watches.len()];
    for round in 0..ROUNDS {
        parts.servers[VICTIM].set_broken(round % 2 == 0)?;
        // Nine tenths of the second that it stays so.
        sleep((Duration::from_secs(1) * round + Duration::from_millis(900)).saturating_sub(start.elapsed()));
        let all = site.services.iter().zip(&mut watches).zip(&mut tally).zip(&mut held);
        for (((service, watch), tally), held) in all {
            let (sessions, broken) = watch.broken();
            (tally.sessions, tally.broken) = (sessions, tally.broken + broken);
            held.extend(held_out(edge, &service.name)?);
        }
        sleep((Duration::from_secs(1) * (round + 1)).saturating_sub(start.elapsed()));
    }
    for (watch, tally) in watches.iter().zip(&mut tally) {
        (tally.flows, tally.moved) = watch.moved(edge)?;
    }
    parts.servers[VICTIM].set_broken(false)?;
    let calm = SystemTime::now();
    let told = events_after(edge, last)?;
    let name = Some(VICTIM_NAME);
    let mut loads = Vec::new();
    for ((watch, service), offset) in watches.into_iter().zip(&site.services).zip(offsets) {
        let damped = wait_event(edge, last, "backend_damped", &service.name, name)?;
        loads.push(watch.stop_load(offset, at(&damped)?.duration_since(begun)?)?);
    }
    let mut rows = Vec::new();
    for (number, (load, service)) in loads.into_iter().zip(&site.services).enumerate() {
        let first = at(&wait_event(edge, last, "failover", &service.name, name)?)?.duration_since(begun)?;
        let damped = wait_event(edge, last, "backend_damped", &service.name, name)?;
        let released = wait_event(edge, last, "backend_released", &service.name, name)?;
        let out = at(&released)?.duration_since(calm).unwrap_or_default();
        let failovers = told
            .iter()
            .filter(|event| is(event, "failover", &service.name, name))
            .count();
        let seconds: Vec<f64> = held[number].iter().map(|out| out.as_millis() as f64 / 1000.0).collect();
        if !(seconds.len() >= 3 && seconds.is_sorted_by(|a, b| a < b)) {
            wrong.push(format!(
                "{}: held out for {seconds:?} s, and that is to grow",
                service.name
            ));
        }
        if failovers != 2 {
            wrong.push(format!(
                "{}: {failovers} failovers, and the second is to be the last",
                service.name
            ));
        }
        rows.push(Row {
            service: service.name.clone(),
            fault: "flapping every second",
            evicted: first,
            seen: Seen {
                flows: tally[number].flows,
                moved: tally[number].moved,
                sessions: tally[number].sessions,
                broken: tally[number].broken,
                ..load
            },
            event: format!(
                "{}; then {seconds:?} s; released {:.1} s after the last change",
                sentence(&damped),
                out.as_secs_f64()
            ),
        });
    }
    all_up(site, edge)?;
    edge.apply(&site.file(""))?;
    Ok(rows)
}

/// For how much longer the backend is held out, while it is up.
fn held_out(edge: &Edge, service: &str) -> Result<Option<Duration>> {
    let shown = edge.api()?.get(&format!("/v1/services/{service}"))?;
    let standing = &shown["backends"][VICTIM]["standing"];
    let until = standing["until_unix_ms"]
        .as_u64()
        .filter(|_| standing["state"] == "damped");
    Ok(until.map(|until| {
        let until = UNIX_EPOCH + Duration::from_millis(until);
        until.duration_since(SystemTime::now()).unwrap_or_default()
    }))
}
