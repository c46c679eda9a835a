//! What is printed, compared with files. `UPDATE_GOLDEN=1 cargo test` writes them anew: look at the difference.

use std::path::PathBuf;
use std::time::Duration;

use lb_userspace::api::error::{ApiError, ErrorKind};
use lb_userspace::api::report::PlanReport;
use lb_userspace::cli::render::{self, View};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::samples;

const WIDTHS: [Option<usize>; 3] = [Some(80), Some(132), None];

fn compare(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lbctl/golden")
        .join(name);
    if update() {
        std::fs::write(&path, actual).expect("the golden files can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs", path.display());
}

/// The table in several widths, and that none is wider than it may be.
fn table(name: &str, render: impl Fn(&View) -> String) {
    let mut all = String::new();
    for width in WIDTHS {
        let view = View {
            width,
            colour: false,
            now_unix_ms: samples::NOW,
        };
        let text = render(&view);
        for line in text.lines() {
            assert!(
                line.chars().count() <= width.unwrap_or(usize::MAX),
                "{width:?}: {line:?}"
            );
            assert_eq!(line, line.trim_end(), "{name}: spaces at the end");
        }
        let title = width.map_or("any width".to_owned(), |width| format!("{width} columns"));
        all.push_str(&format!("--- {title}\n{text}"));
    }
    let coloured = render(&View {
        width: Some(80),
        colour: true,
        now_unix_ms: samples::NOW,
    });
    all.push_str(&format!("--- 80 columns, coloured\n{}", coloured.replace('\x1b', "␛")));
    compare(&format!("{name}.txt"), &all);
}

/// The JSON, that it is read back as it was, and that the page on the API shows it.
fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, answer: &T) {
    let text = serde_json::to_string_pretty(answer).expect("plain data") + "\n";
    compare(&format!("{name}.json"), &text);
    assert_eq!(&serde_json::from_str::<T>(&text).expect("what we wrote"), answer);
    if update() {
        return;
    }
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let page = std::fs::read_to_string(page).expect("the page on the API");
    assert!(
        page.contains(&format!("```json\n{text}```")),
        "docs/api.md does not show {name}.json as it is"
    );
}

#[test]
fn status() {
    table("status", |view| render::status(&samples::status(), view));
    json("status", &samples::status());
}

#[test]
fn services() {
    table("services", |view| render::services(&samples::services(), view));
    json("services", &samples::services()[2..3].to_vec());
    let view = View {
        width: None,
        colour: true,
        now_unix_ms: 0,
    };
    assert_eq!(render::services(&[], &view), "no services\n");
}

#[test]
fn service() {
    table("service", |view| render::service(&samples::service(), view));
    let mut shown = samples::service();
    shown.backends.drain(..2);
    json("service", &shown);
}

#[test]
fn a_service_under_stress() {
    table("service-stressed", |view| render::service(&samples::stressed(), view));
}

#[test]
fn a_service_without_backends_or_checks() {
    let mut service = samples::service();
    service.backends.clear();
    service.check = None;
    table("service-empty", |view| render::service(&service, view));
}

#[test]
fn events() {
    table("events", |view| render::events(&samples::events(), view));
    json("events", &samples::events()[..2].to_vec());
}

#[test]
fn stats() {
    table("stats", |view| render::stats(&samples::stats(), None, view));
    let mut shown = samples::stats();
    shown.services.drain(..2);
    shown.services[0].backends.truncate(2);
    json("stats", &shown);
}

#[test]
fn stats_with_rates() {
    let (before, after) = (samples::stats(), samples::later_stats());
    table("stats-watch", |view| {
        render::stats(&after, Some((&before, Duration::from_millis(2000))), view)
    });
}

#[test]
fn counters_that_began_anew_show_no_negative_rate() {
    let view = View {
        width: None,
        colour: false,
        now_unix_ms: 0,
    };
    let text = render::stats(
        &samples::stats(),
        Some((&samples::later_stats(), Duration::from_secs(1))),
        &view,
    );
    assert!(!text.contains(" -"), "{text}");
}

#[test]
fn lookup() {
    table("lookup", |view| render::lookup(&samples::lookup(), view));
    table("lookup-none", |view| {
        render::lookup(&samples::lookup_without_backend(), view)
    });
    json("lookup", &samples::lookup());
}

#[test]
fn plan_and_apply() {
    table("plan", |view| render::plan(&samples::plan(), view));
    table("apply", |view| render::apply(&samples::apply(), view));
    json("apply", &samples::apply());
    let view = View {
        width: None,
        colour: false,
        now_unix_ms: 0,
    };
    assert_eq!(render::plan(&PlanReport::default(), &view), "nothing would change\n");
}

#[test]
fn backend() {
    table("backend", |view| {
        render::backend_changed(&samples::backend_changed(), view)
    });
}

#[test]
fn check() {
    json("check", &samples::check());
    let mut valid = samples::check();
    (valid.valid, valid.services, valid.backends) = (true, 1, 20);
    table("check", |view| render::check(&valid, view));
}

#[test]
fn simulation() {
    table("simulation", |view| render::simulation(&samples::simulation(), view));
    json("simulation", &samples::simulation());
}

#[test]
fn errors() {
    json(
        "error-config",
        &ApiError::invalid_config("/etc/lbd/edge.toml", samples::check().errors),
    );
    json(
        "error-unknown",
        &ApiError::unknown_backend("web", "web1", ["web-1", "web-2", "db"]),
    );
    json(
        "error-refused",
        &ApiError::new(
            ErrorKind::Refused,
            "12,000 services do not fit: capacity.services is 10,000",
        ),
    );
}

/// The shapes that DESIGN fixes, independent of the types.
#[test]
fn the_fixed_fields_are_there() {
    let stats = serde_json::to_value(samples::stats()).expect("plain data");
    assert_eq!(stats["services"][2]["name"], "web");
    assert_eq!(stats["services"][2]["backends"][0]["name"], "web-1");
    assert!(stats["services"][2]["backends"][0]["packets"].is_u64());
    assert!(stats["services"][2]["backends"][0]["bytes"].is_u64());
    let reasons = stats["reasons"].as_object().expect("an object");
    let sum: u64 = reasons.values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(stats["received"], sum);

    let service = serde_json::to_value(samples::service()).expect("plain data");
    for field in ["name", "vip", "protocol", "port", "forward", "ring_size", "backends"] {
        assert!(!service[field].is_null(), "{field}");
    }
    let backend = &service["backends"][3];
    for field in ["name", "address", "weight", "health", "admin", "slots"] {
        assert!(!backend[field].is_null(), "{field}");
    }
    assert_eq!(
        (&backend["health"], &backend["admin"]),
        (&"starting".into(), &"draining".into())
    );

    let packet = serde_json::to_value(&samples::simulation()[2]).expect("plain data");
    let expected = serde_json::json!({
        "verdict": "pass", "reason": "not_a_vip", "service": null, "backend": null, "len_in": 60, "len_out": 60
    });
    assert_eq!(packet, expected);
}

/// Whether the files are to be written anew; an empty variable is none.
fn update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| !value.is_empty())
}
