//! drain, disable, enable, weight, reset.

use anyhow::Result;
use lb_tests::edge::Edge;
use lb_tests::net::Arms;

use super::{File, Site, Svc, clients, shares, shown};

type Owners = Vec<Option<String>>;

fn owners(edge: &Edge) -> Result<Owners> {
    edge.api()?.owners("web", clients(600))
}

/// How many flows of others than `name` have moved to others than `name`, and how many it has lost and won.
fn moves(before: &Owners, after: &Owners, name: &str) -> (usize, usize, usize) {
    let (mut others, mut lost, mut won) = (0, 0, 0);
    for (before, after) in before.iter().zip(after).filter(|(before, after)| before != after) {
        match (before.as_deref() == Some(name), after.as_deref() == Some(name)) {
            (true, _) => lost += 1,
            (_, true) => won += 1,
            _ => others += 1,
        }
    }
    (others, lost, won)
}

#[test]
fn the_operators_word_moves_what_it_should_and_nothing_else() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let edge = site.edge(&File::new([Svc::new("web", 10, 3), Svc::new("other", 11, 3)]))?;
    let say = |words: &[&str]| edge.lbctl(&[&["backend"], words].concat());
    let before = owners(&edge)?;
    let other = edge.api()?.owners("other", clients(200))?;
    let count = |owners: &Owners| owners.iter().filter(|owner| owner.as_deref() == Some("web-2")).count();
    let had = count(&before);
    assert!((150..250).contains(&had), "{}", shares(&before));

    for (verb, admin) in [("drain", "draining"), ("disable", "disabled")] {
        say(&[verb, "web", "web-2"])?;
        let after = owners(&edge)?;
        assert_eq!(
            moves(&before, &after, "web-2"),
            (0, had, 0),
            "{verb}: {}",
            shares(&after)
        );
        let backend = shown(&edge.api()?, "web", "web-2")?;
        assert_eq!(
            (&backend["admin"], &backend["slots"]),
            (&admin.into(), &0.into()),
            "{backend}"
        );
        assert_eq!(backend["override"]["admin"], admin, "{backend}");
        say(&["enable", "web", "web-2"])?;
        assert_eq!(owners(&edge)?, before, "enabled again after {verb}");
        assert!(shown(&edge.api()?, "web", "web-2")?["override"].is_null());
    }

    say(&["weight", "web", "web-2", "1"])?;
    assert!(count(&owners(&edge)?) < 20);
    let slots = shown(&edge.api()?, "web", "web-2")?["slots"].as_u64().unwrap_or(0);
    assert!(slots > 100, "a weight above 0 is not nothing: {slots} slots");
    say(&["weight", "web", "web-2", "0"])?;
    assert_eq!(moves(&before, &owners(&edge)?, "web-2"), (0, had, 0));
    say(&["weight", "web", "web-2", "50"])?;
    let half = owners(&edge)?;
    let (others, lost, won) = moves(&before, &half, "web-2");
    assert_eq!((others, won), (0, 0), "{}", shares(&half));
    assert!((had / 3..had * 2 / 3).contains(&lost), "{lost} of {had}");
    let backend = shown(&edge.api()?, "web", "web-2")?;
    assert_eq!(
        (&backend["weight"], &backend["configured_weight"]),
        (&50.into(), &100.into())
    );
    say(&["weight", "web", "web-2", "300"])?;
    let (others, lost, won) = moves(&before, &owners(&edge)?, "web-2");
    assert_eq!(lost, 0);
    assert!(others <= 12 && won > 100, "{others} others moved, {won} won");
    say(&["reset", "web", "web-2"])?;
    assert_eq!(owners(&edge)?, before, "reset");
    assert_eq!(edge.api()?.owners("other", clients(200))?, other, "the other service");
    Ok(())
}

#[test]
fn overrides_outlive_the_daemon_and_go_with_their_backend() -> Result<()> {
    let site = Site::new(Arms::One, 3)?;
    let file = File::new([Svc::new("web", 10, 3)]);
    let mut edge = site.edge(&file)?;
    edge.lbctl(&["backend", "drain", "web", "web-1"])?;
    edge.lbctl(&["backend", "weight", "web", "web-2", "20"])?;
    let said = owners(&edge)?;
    edge.kill()?;
    edge.start_again()?;
    assert_eq!(owners(&edge)?, said, "after SIGKILL");
    edge.stop()?;
    edge.start_again()?;
    assert_eq!(owners(&edge)?, said, "after SIGTERM");
    assert_eq!(shown(&edge.api()?, "web", "web-1")?["override"]["admin"], "draining");
    assert_eq!(shown(&edge.api()?, "web", "web-2")?["override"]["weight"], 20);
    let text = edge.lbctl(&["service", "show", "web"])?;
    assert!(text.contains("draining"), "{text}");

    let mut without = file.clone();
    without.services[0].backends.remove(0);
    edge.apply(&without.to_string())?;
    edge.apply(&file.to_string())?;
    let back = shown(&edge.api()?, "web", "web-1")?;
    assert!(back["override"].is_null() && back["admin"] == "enabled", "{back}");
    assert_eq!(shown(&edge.api()?, "web", "web-2")?["override"]["weight"], 20);
    edge.kill()?;
    edge.start_again()?;
    assert!(shown(&edge.api()?, "web", "web-1")?["override"].is_null());
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() -> Result<()> {
    let site = Site::new(Arms::One, 1)?;
    let edge = site.edge(&File::new([Svc::new("web", 10, 1)]))?;
    let refused = |words: &[&str]| match edge.lbctl(words) {
        Ok(text) => panic!("{words:?} was accepted: {text}"),
        Err(error) => format!("{error:#}"),
    };
    let unknown = refused(&["backend", "drain", "web", "web-11"]);
    assert!(unknown.contains("web-11") && unknown.contains("web-1"), "{unknown}");
    let unknown = refused(&["backend", "drain", "wep", "web-1"]);
    assert!(unknown.contains("wep") && unknown.contains("web"), "{unknown}");
    refused(&["backend", "weight", "web", "web-1", "65536"]);
    // The last one may go: with a word about what that means.
    let last = edge.json(&["backend", "drain", "web", "web-1"])?;
    assert!(
        last["warnings"][0].as_str().unwrap_or("").contains("no backend"),
        "{last}"
    );
    Ok(())
}
