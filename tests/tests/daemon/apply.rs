//! Another configuration: taken wholly, or not at all.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, wait_until};
use lb_tests::serve::ask_udp;
use lb_tests::xdp::Mode;
use nix::sys::signal::Signal;

use super::{File, Site, Svc, backend, client_v4, clients, shown, snapshot};

/// `web` with three backends, `other` with two.
fn two_services() -> File {
    File::new([Svc::new("web", 10, 3), Svc::new("other", 11, 2)])
}

fn names(edge: &Edge) -> Result<Vec<String>> {
    let services = edge.api()?.get("/v1/services")?;
    let names = services.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|service| service["name"].as_str().map(str::to_owned))
        .collect())
}

#[test]
fn a_wrong_file_changes_nothing_and_all_its_errors_are_named() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let edge = site.edge(&two_services())?;
    let before = snapshot(&edge.api()?, &["web", "other"])?;
    let mut wrong = two_services();
    wrong.services[0].vip = "192.0.2.300".into();
    wrong.services[0].backends[1].2 = "wieght = 5\n".into();
    wrong.services[1].more = "ring_size = 65536\n".into();
    wrong.services[1].backends[0].2 = "weight = 70000\n".into();
    // As it is written, so that the lines are those that the errors name.
    let text = Mode::of_run()?.configure(&wrong.to_string()).into_owned();
    let line = |needle: &str| 1 + text.lines().position(|line| line.contains(needle)).unwrap_or(0);
    let path = site.scratch.write("wrong.toml", &text)?;
    let path = path.display().to_string();
    for verb in ["apply", "plan", "check"] {
        let error = match edge.lbctl(&[verb, &path]) {
            Ok(text) => panic!("{verb} accepted it: {text}"),
            Err(error) => format!("{error:#}"),
        };
        assert!(error.contains("exit status: 1"), "{error}");
        for (needle, message) in [
            ("192.0.2.300", "192.0.2.300"),
            ("wieght", "weight"),
            ("65536", "prime"),
            ("70000", "65535"),
        ] {
            let place = format!("wrong.toml:{}:", line(needle));
            assert!(
                error.contains(&place) && error.contains(message),
                "{verb}: no {place} with {message} in\n{error}"
            );
        }
    }
    assert!(edge.apply("[node\n").is_err());
    // Right by itself, wrong on this host, or too much for it.
    let mut elsewhere = two_services();
    elsewhere.node = elsewhere.node.replace("eth0", "eth7");
    let error = format!("{:#}", edge.apply(&elsewhere.to_string()).expect_err("no eth7"));
    assert!(
        error.contains("eth7") && error.contains("nothing was changed"),
        "{error}"
    );
    let mut foreign = two_services();
    foreign.node = foreign.node.replace("\"eth0\"", "\"eth0\", \"lo\"") + "xdp_mode = \"native\"\n";
    let error = format!(
        "{:#}",
        edge.apply(&foreign.to_string()).expect_err("lo has no native XDP")
    );
    assert!(error.contains("lo") && error.contains("native"), "{error}");
    foreign.node += "[node.capacity]\nservices = 3\n";
    let error = format!(
        "{:#}",
        edge.apply(&foreign.to_string()).expect_err("the same, with new tables")
    );
    assert!(error.contains("lo") && error.contains("native"), "{error}");
    assert_eq!(snapshot(&edge.api()?, &["web", "other"])?, before);
    let same = edge.json(&["plan", &edge.configuration().display().to_string()])?;
    assert_eq!(
        (&same["changes"], &same["rings"]),
        (&serde_json::json!([]), &serde_json::json!([])),
        "{same}"
    );
    Ok(())
}

#[test]
fn too_much_is_refused_with_the_number_that_would_fit() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let edge = site.edge(&two_services())?;
    let before = snapshot(&edge.api()?, &["web", "other"])?;
    for (capacity, fits) in [
        ("services = 1", "1"),
        ("backends = 4", "4"),
        ("ring_slots = 100000", "100000"),
    ] {
        let mut file = two_services();
        file.node += &format!("[node.capacity]\n{capacity}\n");
        let path = site.scratch.write("full.toml", &file.to_string())?;
        let error = match edge.lbctl(&["apply", &path.display().to_string()]) {
            Ok(text) => panic!("{capacity} was enough: {text}"),
            Err(error) => format!("{error:#}"),
        };
        let name = capacity.split(' ').next().unwrap_or("");
        assert!(error.contains(name) && error.contains(fits), "{capacity}: {error}");
        assert_eq!(snapshot(&edge.api()?, &["web", "other"])?, before, "{capacity}");
    }
    Ok(())
}

#[test]
fn a_plan_changes_nothing_and_an_apply_moves_only_what_it_must() -> Result<()> {
    let site = Site::new(Arms::One, 4)?;
    let file = two_services();
    let edge = site.edge(&file)?;
    let api = edge.api()?;
    let before = api.owners("web", clients(600))?;
    let other = api.owners("other", clients(200))?;
    let mut more = file.clone();
    more.services[0].backends.push(backend(4));
    more.services.push(Svc::new("third", 12, 1));
    let path = site.scratch.write("more.toml", &more.to_string())?;
    let all = snapshot(&api, &["web", "other"])?;
    let plan = edge.json(&["plan", &path.display().to_string()])?;
    assert_eq!(snapshot(&api, &["web", "other"])?, all, "after plan");
    let moved = plan["rings"][0]["moved"].as_u64().unwrap_or(0);
    assert!((16_000..17_500).contains(&moved), "{plan}");

    let report = edge.json(&["apply", &path.display().to_string()])?;
    assert_eq!(report["plan"], plan);
    // The new backend gets its slots when its next hop is known.
    wait_until("web-4 to serve", Duration::from_secs(3), || {
        Ok(shown(&api, "web", "web-4")?["slots"].as_u64() > Some(16_000))
    })?;
    let after = api.owners("web", clients(600))?;
    let stray = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after && after.as_deref() != Some("web-4"));
    assert!(stray.count() <= 6, "flows that moved between others");
    assert_eq!(api.owners("other", clients(200))?, other);
    assert_eq!(names(&edge)?, ["other", "third", "web"]);

    // Back: exactly as it was. And a backend's address changes: only its own flows wait for the way to it.
    edge.apply(&file.to_string())?;
    assert_eq!(api.owners("web", clients(600))?, before);
    let mut moved = file.clone();
    moved.services[0].backends[2].1 = "10.0.0.14".into();
    edge.apply(&moved.to_string())?;
    wait_until("web-3 at its new address", Duration::from_secs(3), || {
        Ok(api.owners("web", clients(600))? == before)
    })?;
    assert_eq!(shown(&api, "web", "web-3")?["address"], "10.0.0.14");
    Ok(())
}

/// One flow is all the traffic there is: whether a plan moves all of it or none hangs on whose flow it is.
#[test]
fn a_plan_says_which_part_of_the_live_traffic_moves() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let file = two_services();
    let edge = site.edge(&file)?;
    let api = edge.api()?;
    wait_until("all to have slots", Duration::from_secs(5), || {
        Ok(api.owners("web", clients(100))?.iter().all(Option::is_some))
    })?;
    let source = client_v4(40_000);
    let owner = edge.lookup("web", source)?;
    let without = |goes: &dyn Fn(&str) -> bool| -> Result<String> {
        let mut less = file.clone();
        let backends = &mut less.services[0].backends;
        if let Some(position) = backends.iter().position(|(name, ..)| goes(name)) {
            backends.remove(position);
        }
        let path = site.scratch.write("less.toml", &less.to_string())?;
        Ok(path.display().to_string())
    };
    let quiet = edge.json(&["plan", &without(&|name| name == owner)?])?;
    assert!(quiet["rings"][0]["traffic"].is_null(), "no packets yet: {quiet}");

    let target = file.services[0].target()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            let socket = site.net.client.enter(|| UdpSocket::bind(source))??;
            while !stop.load(Ordering::Relaxed) {
                socket.send_to(b"0123456789", target)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        let checked = (|| -> Result<()> {
            let share =
                |path: &str| -> Result<Option<f64>> { Ok(edge.json(&["plan", path])?["rings"][0]["traffic"].as_f64()) };
            let path = without(&|name| name == owner)?;
            wait_until("traffic to be seen", Duration::from_secs(10), || {
                Ok(share(&path)? == Some(1.0))
            })?;
            let text = edge.lbctl(&["plan", &path])?;
            assert!(
                text.contains("slots move (33") && text.contains("100 % of its packets"),
                "{text}"
            );
            // Maglev gives a few of the others' slots to one another: of their flow hardly anything.
            let other = share(&without(&|name| name != owner)?)?;
            assert!(other.is_some_and(|part| part < 0.02), "{other:?}");
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or(Ok(()));
        checked.and(sent)
    })
}

#[test]
fn a_service_that_goes_is_balanced_no_more() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let file = two_services();
    let _servers = site.serve(&file.services)?;
    let edge = site.edge(&file)?;
    let ask = |service: usize| -> Result<bool> {
        let target = file.services[service].target()?;
        site.net
            .client
            .enter(|| ask_udp(target, 33_000, Duration::from_millis(300)).is_ok())
    };
    assert!(ask(0)? && ask(1)?);
    let mut without = file.clone();
    without.services.remove(1);
    edge.apply(&without.to_string())?;
    assert!(ask(0)? && !ask(1)?);
    assert!(edge.lbctl(&["service", "show", "other"]).is_err());
    assert_eq!(names(&edge)?, ["web"]);
    edge.apply(&file.to_string())?;
    wait_until("the service to be back", Duration::from_secs(3), || ask(1))
}

#[test]
fn what_was_applied_outlives_the_daemon_until_the_file_changes() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let file = two_services();
    let mut edge = site.edge(&file)?;
    let mut applied = file.clone();
    applied.services.truncate(1);
    applied.services[0].name = "applied".into();
    edge.apply(&applied.to_string())?;
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(names(&edge)?, ["applied"], "the file has not changed since");
    let config = &edge.api()?.get("/v1/status")?["config"];
    assert_eq!(
        (&config["by"], &config["file"]),
        (&"apply".into(), &"applied.toml".into())
    );

    let mut changed = file.clone();
    changed.services[0].name = "changed".into();
    edge.rewrite(&changed.to_string())?;
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(names(&edge)?, ["changed", "other"]);

    edge.apply(&applied.to_string())?;
    edge.rewrite(&file.to_string())?;
    edge.signal(Signal::SIGHUP)?;
    wait_until("the file to be read again", Duration::from_secs(3), || {
        Ok(names(&edge)? == ["other", "web"])
    })?;
    // A wrong one is not taken, and what was wrong is in the log.
    edge.rewrite("[node]\ninterfaces = []\n")?;
    edge.signal(Signal::SIGHUP)?;
    wait_until("the refusal to be logged", Duration::from_secs(3), || {
        Ok(edge.log().contains("the configuration before stays"))
    })?;
    assert_eq!(names(&edge)?, ["other", "web"]);
    edge.rewrite(&file.to_string())?;
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(
        names(&edge)?,
        ["other", "web"],
        "the reload counts, not what was applied before"
    );
    Ok(())
}

#[test]
fn checks_and_names_come_without_an_interruption() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let mut file = two_services();
    let edge = site.edge(&file)?;
    let before = edge.api()?.owners("web", clients(300))?;
    // Nobody listens on the port: checks that fail slowly show who is up before they have.
    file.services[0].more =
        "[service.health]\nkind = \"tcp\"\nport = 9\ninterval = \"1s\"\ntimeout = \"100ms\"\nrise = 2\nfall = 5\n"
            .into();
    edge.apply(&file.to_string())?;
    assert_eq!(edge.api()?.owners("web", clients(300))?, before, "checks are new");
    file.services[0].name = "renamed".into();
    edge.apply(&file.to_string())?;
    assert_eq!(edge.api()?.owners("renamed", clients(300))?, before, "the name is new");
    file.services[0].backends[2].1 = "10.0.0.77".into();
    edge.apply(&file.to_string())?;
    assert_eq!(
        shown(&edge.api()?, "renamed", "web-3")?["health"],
        "starting",
        "another server"
    );
    assert_eq!(shown(&edge.api()?, "renamed", "web-2")?["health"], "up");
    Ok(())
}
