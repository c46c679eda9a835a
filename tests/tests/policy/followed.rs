//! Weights on their way: an operator's ramp, and what a backend says of itself.

use std::thread::sleep;

use super::*;

#[test]
fn a_ramp_moves_a_weight_over_a_restart_and_breaks_nothing() -> Result<()> {
    let site = Site::new(3)?;
    let mut edge = site.edge("", "", &["", "", ""])?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    edge.lbctl(&["backend", "weight", "web", "web-2", "0", "--over", "12s"])?;
    let mut seen = Vec::new();
    for round in 0..12 {
        sleep(Duration::from_secs(1));
        if round == 5 {
            edge.kill()?;
            edge.start_again()?;
        }
        seen.push(slots(&edge, 1)?);
    }
    wait_for(&edge, "the end", |service| service["backends"][1]["slots"] == 0)?;
    println!("from {whole} slots to none in 12 s: {seen:?}");
    ensure!(seen.is_sorted_by(|a, b| a >= b), "{seen:?}");
    ensure!(seen[3] < whole * 9 / 10 && seen[3] > whole / 3, "{seen:?}");
    ensure!(seen[7] < whole / 2 && seen[7] > 0, "{seen:?}");
    let (failed, first) = failures(&load.stop()?);
    ensure!(failed == 0, "{failed} failed: {first}");
    edge.lbctl(&["backend", "reset", "web", "web-2"])?;
    ensure!(slots(&edge, 1)? == whole);
    Ok(())
}

/// An agent that says the same to whoever asks.
fn agent(host: &Host, line: Arc<std::sync::Mutex<String>>) -> Result<()> {
    let listener = host.enter(|| TcpListener::bind("0.0.0.0:9998"))??;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if let Ok(line) = line.lock() {
                _ = stream.write_all(line.as_bytes());
            }
        }
    });
    Ok(())
}

#[test]
fn a_backend_that_says_it_is_busy_gets_less() -> Result<()> {
    let site = Site::new(3)?;
    let line = Arc::new(std::sync::Mutex::new("100%\n".to_owned()));
    agent(&site.net.backends[1].host, Arc::clone(&line))?;
    let say = |text: &str| {
        if let Ok(mut line) = line.lock() {
            *line = format!("{text}\n");
        }
    };
    let edge = site.edge(
        "",
        "weights = \"agent\"\nagent_port = 9998\nagent_interval = \"200ms\"",
        &["", "", ""],
    )?;
    all_up(&edge, 3)?;
    let whole = slots(&edge, 1)?;
    let load = site.load(100)?;
    say("50%");
    wait_for(&edge, "half of it", |service| service["backends"][1]["load"] == 0.5)?;
    let half = slots(&edge, 1)?;
    ensure!(
        half > whole * 4 / 10 && half < whole * 6 / 10,
        "{half} of {whole} slots"
    );
    say("drain");
    wait_for(&edge, "draining", |service| standing(service, "web-2") == "draining")?;
    ensure!(slots(&edge, 1)? == 0);
    say("ready 100%");
    wait_for(&edge, "all of it", |service| service["backends"][1]["load"] == 1.0)?;
    ensure!(slots(&edge, 1)? == whole);
    say("# nothing to say");
    wait_for(&edge, "a word on the silence", |service| {
        // Nobody listens at the other two.
        let wanted = "web-1 and 2 more: agents do not answer, what they said last holds: ";
        let lines = service["warnings"].as_array();
        lines.is_some_and(|lines| {
            lines
                .iter()
                .any(|line| line.as_str().is_some_and(|line| line.starts_with(wanted)))
        })
    })?;
    ensure!(slots(&edge, 1)? == whole, "its last word holds");
    let why = |backend: &str| -> Result<String> {
        let all = edge.api()?.get("/v1/events")?;
        let mut all = all.as_array().context("a list")?.iter();
        let event = all.find(|event| event["kind"] == "agent_silent" && event["backend"] == backend);
        Ok(event
            .and_then(|event| event["why"].as_str())
            .unwrap_or_default()
            .to_owned())
    };
    ensure!(
        why("web-2")?.ends_with("is not understood; its last word holds: 100 %"),
        "{}",
        why("web-2")?
    );
    ensure!(why("web-1")?.contains("refused"), "{}", why("web-1")?);
    say("down # disk full");
    wait_for(&edge, "down", |service| standing(service, "web-2") == "down")?;
    let samples = load.stop()?;
    let (failed, first) = failures(&samples);
    println!(
        "an agent's words: {half} of {whole} slots at 50 %, {failed} of {} requests failed",
        samples.len()
    );
    ensure!(failed == 0, "{first}");
    let told = events(&edge)?;
    ensure!(has(&told, "backend_load", "web-2") && has(&told, "agent_heard", "web-2"));
    Ok(())
}
