//! Many services that are lost at once: what is critical is told first, and all of it.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

const SERVICES: u64 = 400;
/// Of each service; each is a warning of its own.
const BACKENDS: u8 = 5;
/// How long the receiver takes for an answer.
const ANSWER: Duration = Duration::from_millis(1);
/// How late what is critical may be on a machine that does other things too.
const LATE_MS: u64 = 3_000;

#[test]
fn four_hundred_services_lost_at_once_are_all_told_of_and_wait_for_nothing_less() -> Result<()> {
    let _turn = HEAVY.take();
    let mut site = Site::new(BACKENDS)?;
    let listener = site.net.edge.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let text = configuration(&site, listener.local_addr()?);
    let (sender, told) = channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            sleep(ANSWER);
            let Some(message) = super::alerts::message(&mut stream) else {
                continue;
            };
            if sender.send((now(), message)).is_err() {
                return;
            }
        }
    });
    let edge = Edge::start(&site.net, &site.programs, &site.scratch, &text)?;
    let serving = || Ok(edge.json(&["status"])?["backends"]["serving"] == SERVICES * u64::from(BACKENDS));
    wait_until("all to serve", PATIENCE * 2, serving).with_context(|| edge.log())?;
    let begun = now();
    // The servers that answered the checks are gone.
    site.healths.clear();
    let (mut lost, mut messages, mut all_lost_at, mut latest) = (0, 0, 0, 0);
    let mut kinds: Vec<(String, u64)> = Vec::new();
    while lost < SERVICES {
        let (at, message) = match told.recv_timeout(PATIENCE) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                anyhow::bail!("{lost} of {SERVICES} are told of: {kinds:?}\n{}", edge.log())
            }
        };
        let count = message["count"].as_u64().unwrap_or(1);
        let kind = message["kind"].as_str().unwrap_or("?").to_owned();
        let others = message["also"].as_array().map_or(0, Vec::len) as u64;
        ensure!(count == 1 + others, "{message:#}");
        kinds.push((kind.clone(), count));
        if kind == "service_lost" {
            lost += count;
            messages += 1;
            all_lost_at = at;
            let happened = message["at_unix_ms"].as_u64().context("a time")?;
            latest = latest.max(at.saturating_sub(happened));
        }
    }
    println!(
        "{SERVICES} services lost: told in {messages} messages, {} ms after the server went, each at most {latest} ms after it happened; all messages: {kinds:?}",
        all_lost_at - begun
    );
    ensure!(messages <= SERVICES / 8, "{messages} messages");
    ensure!(latest < LATE_MS, "{latest} ms late");
    let status = edge.lbctl(&["status"])?;
    ensure!(!status.contains("alerts to"), "{status}");
    Ok(())
}

fn configuration(site: &Site, receiver: SocketAddr) -> String {
    let interface = Topology::EDGE_INTERFACE;
    let vip = Topology::vip(Family::V4, 10);
    let mut text = format!(
        "[node]\ninterfaces = [\"{interface}\"]\nhash_seed = \"0x5eed\"\n\n\
         [[alert]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://{receiver}/\"\n"
    );
    for number in 0..SERVICES {
        let port = 1_000 + number;
        // Writing to a string cannot fail.
        _ = write!(
            text,
            "\n[[service]]\nname = \"s{number}\"\nvip = \"{vip}\"\nprotocol = \"tcp\"\nport = {port}\nforward = \"ipip\"\nring_size = 503\n\
             [service.health]\nkind = \"tcp\"\nport = {CHECK_PORT}\nvia = \"direct\"\ninterval = \"1s\"\ntimeout = \"500ms\"\nrise = 1\nfall = 2\n"
        );
        for backend in &site.net.backends {
            let (name, address) = (backend.name(), backend.address(Family::V4));
            _ = write!(
                text,
                "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"
            );
        }
    }
    text
}

fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| time.as_millis() as u64)
}
