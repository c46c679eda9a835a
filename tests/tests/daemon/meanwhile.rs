//! A configuration that takes its time, and what is said meanwhile.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, anyhow};
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, wait_until};
use nix::sys::signal::Signal;

use super::{File, Site, Svc, clients};

/// `web`, and so many others that their rings take a while.
fn slow() -> File {
    let other = |number: u16| {
        let mut service = Svc::new(&format!("other-{number:03}"), 11, 0);
        service.port = 1_000 + number;
        service.backends = (0..20)
            .map(|one| (format!("backend-{one}"), format!("10.0.0.{}", 100 + one), String::new()))
            .collect();
        service
    };
    File::new(std::iter::once(Svc::new("web", 10, 3)).chain((0..150).map(other)))
}

/// Applies a file, and does something else while it is read.
fn apply_and(edge: &Edge, path: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    std::thread::scope(|scope| {
        let applied = scope.spawn(|| edge.lbctl(&["apply", path]));
        sleep(Duration::from_millis(40));
        let done = meanwhile();
        applied.join().map_err(|_| anyhow!("a thread panicked"))??;
        done
    })
}

fn services(edge: &Edge) -> Result<usize> {
    Ok(edge.api()?.get("/v1/services")?.as_array().map_or(0, Vec::len))
}

#[test]
fn an_operators_word_holds_though_a_file_was_being_read() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let mut edge = site.edge(&File::new([Svc::new("web", 10, 3)]))?;
    let path = site
        .scratch
        .write("slow.toml", &slow().to_string())?
        .display()
        .to_string();
    apply_and(&edge, &path, || {
        edge.lbctl(&["backend", "disable", "web", "web-1"])?;
        // More than the file says: the ring that was populated meanwhile does not suit.
        edge.lbctl(&["backend", "weight", "web", "web-2", "300"])?;
        Ok(())
    })?;
    assert_eq!(services(&edge)?, 151);
    let web = edge.api()?.get("/v1/services/web")?;
    assert_eq!(web["backends"][0]["admin"], "disabled", "{web}");
    assert_eq!(web["backends"][1]["weight"], 300, "{web}");
    let owners = edge.api()?.owners("web", clients(400))?;
    let of = |name: &str| owners.iter().flatten().filter(|owner| *owner == name).count();
    assert_eq!(of("web-1"), 0);
    assert!(of("web-2") > 2 * of("web-3"), "{} and {}", of("web-2"), of("web-3"));
    // Whoever begins from what is kept comes to the same.
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(edge.api()?.owners("web", clients(400))?, owners);
    Ok(())
}

#[test]
fn configurations_are_taken_in_the_order_of_their_coming() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let edge = site.edge(&File::new([Svc::new("web", 10, 3), Svc::new("file", 12, 1)]))?;
    let path = site
        .scratch
        .write("slow.toml", &slow().to_string())?
        .display()
        .to_string();
    let quick = File::new([Svc::new("web", 10, 2), Svc::new("quick", 13, 1), Svc::new("one", 14, 1)]);
    let quick = site
        .scratch
        .write("quick.toml", &quick.to_string())?
        .display()
        .to_string();
    apply_and(&edge, &path, || {
        // It finds the slow one in force.
        let plan = edge.lbctl(&["plan", &quick])?;
        assert!(plan.contains("other-149"), "{plan}");
        Ok(())
    })?;
    assert_eq!(services(&edge)?, 151);
    let mut other = slow();
    other.services.truncate(100);
    let other = site
        .scratch
        .write("other.toml", &other.to_string())?
        .display()
        .to_string();
    apply_and(&edge, &other, || edge.lbctl(&["apply", &quick]).map(drop))?;
    assert_eq!(services(&edge)?, 3);
    // The daemon's own file, which nobody changed, counts again.
    apply_and(&edge, &path, || edge.signal(Signal::SIGHUP))?;
    wait_until("the file to be in force", Duration::from_secs(20), || {
        Ok(edge.api()?.get("/v1/services/file").is_ok() && services(&edge)? == 2)
    })?;
    Ok(())
}

#[test]
fn a_file_that_is_gone_is_told_of_and_changes_nothing() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let edge = site.edge(&File::new([Svc::new("web", 10, 3)]))?;
    let away = edge.configuration().with_extension("away");
    std::fs::rename(edge.configuration(), &away)?;
    edge.signal(Signal::SIGHUP)?;
    wait_until("the event", Duration::from_secs(10), || {
        Ok(edge.lbctl(&["events"])?.contains("cannot read"))
    })?;
    assert_eq!(services(&edge)?, 1);
    std::fs::rename(&away, edge.configuration())?;
    Ok(())
}
