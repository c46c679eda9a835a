//! The ways out and back: step by step, tier by tier, after a time; and shares that follow response times.

use std::thread::sleep;

use lb_tests::load::Session;

use super::*;

/// Samples the slots of a backend until they are `end`; returns what was seen, without repetitions.
fn follow(edge: &Edge, index: usize, end: u64, patience: Duration) -> Result<Vec<u64>> {
    let mut seen = vec![slots(edge, index)?];
    wait_until(&format!("{end} slots"), patience, || {
        let now = slots(edge, index)?;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        Ok(now == end)
    })
    .with_context(|| format!("{seen:?}\n{}", edge.log()))?;
    Ok(seen)
}

fn none_broken(sessions: &mut [(Session, String)], what: &str) -> Result<()> {
    for (session, name) in sessions {
        let answer = session.ask(0);
        ensure!(answer.as_ref().ok() == Some(name), "{what}: one of {name}: {answer:?}");
    }
    Ok(())
}

fn none_failed(load: Load) -> Result<usize> {
    let samples = load.stop()?;
    let (failed, first) = failures(&samples);
    ensure!(failed == 0, "{failed} of {} failed: {first}", samples.len());
    Ok(samples.len())
}

#[test]
fn a_gradual_failover_goes_step_by_step_and_turns_back() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "failover = \"gradual\"\nfailover_time = \"6s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    let mut open = site.sessions(60)?;
    site.set(&[true, false, true]);
    wait_for(&edge, "half of it", |service| {
        service["backends"][1]["slots"]
            .as_u64()
            .is_some_and(|slots| slots <= whole / 2)
    })?;
    ensure!(slots(&edge, 1)? > 0, "it does not go in steps");
    site.set(&[true; 3]);
    follow(&edge, 1, whole, PATIENCE)?;
    none_broken(&mut open, "turned back")?;

    site.set(&[true, false, true]);
    wait_for(&edge, "falling", |service| standing(service, "web-2") == "falling")?;
    let begun = Instant::now();
    let seen = follow(&edge, 1, 0, PATIENCE)?;
    let took = begun.elapsed();
    ensure!(seen.len() >= 5 && seen.is_sorted_by(|a, b| a > b), "{seen:?}");
    ensure!(took > Duration::from_secs(4), "{took:?}");
    open.retain(|(_, name)| name != "web-2");
    none_broken(&mut open, "others' connections")?;
    let asked = none_failed(load)?;
    println!("gradual failover over 6 s: {seen:?} of {whole} slots in {took:?}; 0 of {asked} requests failed");
    let events = events(&edge)?;
    ensure!(
        has(&events, "failover", "web-2") && has(&events, "failback", "web-2"),
        "{events:?}"
    );
    Ok(())
}

#[test]
fn the_next_tier_serves_while_the_first_is_too_small() -> Result<()> {
    let site = Site::new(3)?;
    let tiers = ["priority = 1", "priority = 1", "priority = 2"];
    let edge = site.edge("", "min_healthy = 2", &tiers)?;
    all_up(&edge, 3)?;
    let load = site.load(100)?;
    let mut first = site.sessions(40)?;
    ensure!(first.iter().all(|(_, name)| name != "web-3"), "the standby serves");
    site.set(&[true, false, true]);
    let took = wait_for(&edge, "the standby", |service| service["backends"][2]["slots"] != 0)?;
    first.retain(|(_, name)| name == "web-1");
    none_broken(&mut first, "web-1's")?;
    let mut on_standby = site.sessions(40)?;
    on_standby.retain(|(_, name)| name == "web-3");
    ensure!(!on_standby.is_empty(), "the standby serves nobody");
    site.set(&[true; 3]);
    let back = wait_for(&edge, "the first tier alone", |service| {
        standing(service, "web-3") == "standby" && service["backends"][2]["slots"] == 0
    })?;
    sleep(Duration::from_secs(1));
    none_broken(&mut first, "web-1's, after the way back")?;
    // Who is on the standby stays there.
    none_broken(&mut on_standby, "the standby's")?;
    let seen = load.samples(0).len();
    sleep(Duration::from_secs(1));
    let now = who(&load.samples(seen + 16));
    ensure!(!now.contains("web-3"), "{now:?}");
    let asked = none_failed(load)?;
    println!(
        "tiers: the standby serves {took:?} after the first failed check, and is out {back:?} after the first good one; 0 of {asked} failed"
    );
    ensure!(has(&events(&edge)?, "tier", ""), "{:?}", events(&edge)?);
    Ok(())
}

#[test]
fn who_comes_back_starts_slowly() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "slow_start = \"6s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    site.set(&[true, false, true]);
    wait_for(&edge, "out", |service| service["backends"][1]["slots"] == 0)?;
    let mut open = site.sessions(60)?;
    site.set(&[true; 3]);
    let begun = Instant::now();
    let seen = follow(&edge, 1, whole, PATIENCE)?;
    let took = begun.elapsed();
    ensure!(seen.len() >= 6 && seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    ensure!(seen[1] < whole / 4, "{seen:?} of {whole}");
    ensure!(took > Duration::from_secs(4), "{took:?}");
    // Those of the others stay where they are, although their slots went.
    none_broken(&mut open, "others' connections")?;
    let asked = none_failed(load)?;
    println!("slow start over 6 s: {seen:?} of {whole} slots in {took:?}; 0 of {asked} requests failed");
    Ok(())
}

#[test]
fn a_delayed_failback_waits_its_time() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "failback = \"delay\"\nfailback_delay = \"4s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    site.set(&[true, false, true]);
    wait_for(&edge, "out", |service| service["backends"][1]["slots"] == 0)?;
    site.set(&[true; 3]);
    wait_for(&edge, "waiting", |service| standing(service, "web-2") == "waiting")?;
    sleep(Duration::from_secs(2));
    // Not well for long enough: it begins anew.
    site.set(&[true, false, true]);
    wait_for(&edge, "down", |service| standing(service, "web-2") == "down")?;
    site.set(&[true; 3]);
    wait_for(&edge, "waiting", |service| standing(service, "web-2") == "waiting")?;
    let begun = Instant::now();
    let shown = edge.api()?.get("/v1/services/web")?;
    ensure!(shown["backends"][1]["standing"]["until_unix_ms"].is_u64(), "{shown:#}");
    follow(&edge, 1, whole, PATIENCE)?;
    let took = begun.elapsed();
    ensure!(took > Duration::from_millis(3_500), "{took:?}");
    let asked = none_failed(load)?;
    println!("failback after 4 s: back after {took:?}; 0 of {asked} requests failed");
    let events = events(&edge)?;
    for kind in ["failback_pending", "failback"] {
        ensure!(has(&events, kind, "web-2"), "{kind}: {events:?}");
    }
    Ok(())
}

#[test]
fn who_answers_slowly_gets_less_and_who_is_quick_again_gets_it_back() -> Result<()> {
    let site = Site::new(3)?;
    let edge = site.edge("", "weights = \"latency\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    let mut open = site.sessions(60)?;
    // The others on a busy machine are not that slow.
    site.healths[1].slow(Duration::from_millis(40));
    let less = |service: &Value| {
        service["backends"][1]["slots"]
            .as_u64()
            .is_some_and(|slots| slots <= whole / 2)
    };
    let took = wait_within(&edge, "half of it", Duration::from_secs(60), less)?;
    none_broken(&mut open, "none moves")?;
    site.healths[1].slow(Duration::ZERO);
    let back = |service: &Value| {
        service["backends"][1]["slots"]
            .as_u64()
            .is_some_and(|slots| slots >= whole * 7 / 10)
    };
    let way_back = wait_within(&edge, "most of it", Duration::from_secs(120), back)?;
    none_broken(&mut open, "none moves")?;
    let asked = none_failed(load)?;
    println!("40 ms slower: half after {took:?}; quick again: 70 % after {way_back:?}; 0 of {asked} requests failed");
    let all = edge.api()?.get("/v1/events?limit=200")?;
    let loads = all
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| event["kind"] == "backend_load");
    let percent = |value: &Value| value.as_str()?.split(' ').next()?.parse::<i64>().ok();
    let mut steps = 0;
    for event in loads {
        let (from, to) = (percent(&event["from"]), percent(&event["to"]));
        let (from, to) = from.zip(to).with_context(|| event.to_string())?;
        ensure!(
            (from - to).abs() <= 15,
            "a step is no more than a tenth and a half: {event}"
        );
        steps += 1;
    }
    ensure!(steps >= 4, "{all}");
    Ok(())
}
