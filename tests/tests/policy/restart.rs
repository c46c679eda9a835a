//! What a backend has behind it counts after the daemon was killed and started again.

use std::thread::sleep;

use super::*;

/// The daemon writes down where backends stand once a second.
const WRITTEN: Duration = Duration::from_millis(1_500);

fn again(edge: &mut Edge) -> Result<()> {
    sleep(WRITTEN);
    edge.kill()?;
    edge.start_again()
}

fn until(edge: &Edge) -> Result<u64> {
    let shown = edge.api()?.get("/v1/services/web")?;
    shown["backends"][1]["standing"]["until_unix_ms"]
        .as_u64()
        .with_context(|| format!("{shown:#}"))
}

#[test]
fn who_flapped_is_held_out_over_a_restart() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge(
        "",
        "damping = { changes = 2, half_life = \"10s\", max_out = \"2m\" }",
        &["", "", ""],
    )?;
    all_up(&edge, 3)?;
    for _ in 0..2 {
        site.set(&[true, false, true]);
        wait_for(&edge, "down", |service| service["backends"][1]["health"] == "down")?;
        site.set(&[true; 3]);
        wait_for(&edge, "up", |service| service["backends"][1]["health"] == "up")?;
    }
    wait_for(&edge, "held out", |service| standing(service, "web-2") == "damped")?;
    let before = until(&edge)?;
    for _ in 0..2 {
        again(&mut edge)?;
        wait_for(&edge, "held out again", |service| {
            standing(service, "web-2") == "damped"
        })?;
        let now = until(&edge)?;
        ensure!(now.abs_diff(before) < 500, "until {now} and not until {before}");
    }
    let load = site.load(100)?;
    sleep(Duration::from_secs(1));
    let samples = load.stop()?;
    ensure!(!who(&samples).contains("web-2") && failures(&samples).0 == 0);
    wait_for(&edge, "its return", |service| standing(service, "web-2") == "serving")?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis() as u64;
    ensure!(
        now >= before && now < before + 5_000,
        "back at {now}, held out until {before}"
    );
    println!("held out over two restarts, back {} ms after its time", now - before);
    Ok(())
}

#[test]
fn a_delayed_failback_goes_on_over_a_restart() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "failback = \"delay\"\nfailback_delay = \"10s\"", &["", "", ""])?;
    all_up(&edge, 3)?;
    site.set(&[true, false, true]);
    wait_for(&edge, "out", |service| service["backends"][1]["slots"] == 0)?;
    site.set(&[true; 3]);
    wait_for(&edge, "waiting", |service| standing(service, "web-2") == "waiting")?;
    let begun = Instant::now();
    let before = until(&edge)?;
    again(&mut edge)?;
    wait_for(&edge, "waiting again", |service| {
        standing(service, "web-2") == "waiting"
    })?;
    ensure!(
        until(&edge)?.abs_diff(before) < 100,
        "until {} and not until {before}",
        until(&edge)?
    );
    wait_for(&edge, "its return", |service| service["backends"][1]["slots"] != 0)?;
    let took = begun.elapsed();
    println!("failback after 10 s, a restart in between: back after {took:?}");
    ensure!(
        took > Duration::from_millis(9_500) && took < Duration::from_secs(15),
        "{took:?}"
    );
    Ok(())
}

#[test]
fn a_slow_start_and_a_gradual_failover_go_on_over_a_restart() -> Result<()> {
    let site = Site::new(3)?;
    let lines = "failover = \"gradual\"\nfailover_time = \"15s\"\nslow_start = \"15s\"";
    let mut edge = site.edge("", lines, &["", "", ""])?;
    all_up(&edge, 3)?;
    let slots = |edge: &Edge| -> Result<u64> {
        edge.api()?.get("/v1/services/web")?["backends"][1]["slots"]
            .as_u64()
            .context("slots")
    };
    let whole = slots(&edge)?;
    let load = site.load(100)?;
    let follow = |edge: &mut Edge, end: u64| -> Result<(Vec<u64>, Duration)> {
        let begun = Instant::now();
        let mut seen = vec![slots(edge)?];
        let mut restarted = false;
        while seen.last() != Some(&end) && begun.elapsed() < Duration::from_secs(40) {
            if !restarted && begun.elapsed() > Duration::from_secs(5) {
                again(edge)?;
                restarted = true;
            }
            sleep(Duration::from_millis(200));
            seen.push(slots(edge)?);
        }
        seen.dedup();
        Ok((seen, begun.elapsed()))
    };
    site.set(&[true, false, true]);
    wait_for(&edge, "falling", |service| standing(service, "web-2") == "falling")?;
    let (seen, took) = follow(&mut edge, 0)?;
    println!("gradual failover over 15 s, a restart in between: {seen:?} of {whole} slots in {took:?}");
    ensure!(
        seen.is_sorted_by(|a, b| a > b) && seen.last() == Some(&0) && seen.len() > 4,
        "{seen:?}"
    );
    site.set(&[true; 3]);
    wait_for(&edge, "rising", |service| standing(service, "web-2") == "rising")?;
    let (seen, took) = follow(&mut edge, whole)?;
    println!("slow start over 15 s, a restart in between: {seen:?} of {whole} slots in {took:?}");
    ensure!(
        seen.is_sorted_by(|a, b| a < b) && seen.last() == Some(&whole) && seen.len() > 4,
        "{seen:?}"
    );
    let (failed, first) = failures(&load.stop()?);
    ensure!(failed == 0, "{failed} failed: {first}");
    Ok(())
}

#[test]
fn a_restart_tells_nobody_again_of_what_was_so_before() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "panic_threshold = 0.5", &["", "", ""])?;
    all_up(&edge, 3)?;
    site.set(&[true, false, false]);
    wait_for(&edge, "panic", |service| service["mode"] == "panic")?;
    again(&mut edge)?;
    sleep(Duration::from_secs(2));
    wait_for(&edge, "panic still", |service| service["mode"] == "panic")?;
    let count =
        |edge: &Edge, kind: &str| -> Result<usize> { Ok(events(edge)?.iter().filter(|(one, _)| one == kind).count()) };
    let seen = ["daemon_started", "backend_down", "failover", "panic_on"].map(|kind| count(&edge, kind));
    let seen = seen.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(seen == [2, 2, 2, 1], "{seen:?} {:?}", events(&edge)?);
    site.set(&[true; 3]);
    wait_for(&edge, "its end", |service| service["mode"] == "normal")?;
    ensure!(count(&edge, "panic_off")? == 1, "{:?}", events(&edge)?);
    Ok(())
}
