//! Large files: nothing here is quadratic.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::parse;

fn file(services: usize, backends: usize) -> String {
    let mut text =
        String::from("[node]\ninterfaces = [\"eth0\"]\nhash_seed = 1\n[node.capacity]\nbackends = 200_000\n");
    for service in 0..services {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"service-{service}\"\nvip = \"198.18.{}.{}\"\nprotocol = \"tcp\"\nport = 80\nforward = \"ipip\"\n\
             ring_size = 4099\n\n[service.health]\nkind = \"http\"\npath = \"/healthz\"\ninterval = \"200ms\"\ntimeout = \"100ms\"\n",
            service / 256,
            service % 256,
        );
        for backend in 0..backends {
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"backend-{backend}\"\naddress = \"10.{}.{}.{}\"\nweight = 100\n",
                service / 256,
                service % 256,
                backend + 1
            );
        }
    }
    text
}

/// Prints the time; the bound is far above it, for slow machines without optimisation.
#[test]
fn ten_thousand_services() {
    let text = file(10_000, 20);
    let start = Instant::now();
    let parsed = parse(&text, "f").unwrap();
    let took = start.elapsed();
    println!(
        "10,000 services with 20 backends, {} MB: {took:?}",
        text.len() / 1_000_000
    );
    assert_eq!(parsed.model.services.len(), 10_000);
    assert!(parsed.model.services.iter().all(|service| service.backends.len() == 20));
    assert_eq!(parsed.warnings, []);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// Every backend is wrong, twice: errors cost no more than their lines.
#[test]
fn a_hundred_thousand_errors() {
    let text = file(2_500, 20)
        .replace("weight = 100", "weight = -1")
        .replace("name = \"backend-", "name = \"-");
    let start = Instant::now();
    let errors = parse(&text, "f").unwrap_err();
    let took = start.elapsed();
    println!("{} errors: {took:?}", errors.as_slice().len());
    assert_eq!(errors.as_slice().len(), 1_001);
    let last = errors.as_slice().last().unwrap();
    assert_eq!((last.line, last.problem.as_str()), (0, "and 99000 more errors"));
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// Columns are characters, counted from the line's start: not anew for each error.
#[test]
fn forty_thousand_errors_in_one_line() {
    let text = format!(
        "node = {{ interfaces = [\"é\"], hash_seed = 1 }}\nservice = [{}]\n",
        "{},".repeat(10_000)
    );
    let start = Instant::now();
    let errors = parse(&text, "f").unwrap_err();
    let took = start.elapsed();
    println!("{} errors in one line: {took:?}", errors.as_slice().len());
    assert_eq!(errors.as_slice().len(), 1_001);
    // Four of each table.
    let last = errors.iter().nth(999).map(|error| (error.line, error.column));
    assert_eq!(last, Some((2, "service = [".len() + 3 * 249 + 1)));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// No line is right: what is kept and shown of them has a bound.
#[test]
fn millions_of_errors() {
    let text = "x\n".repeat(4 << 20);
    let errors = parse(&text, "f").unwrap_err();
    assert_eq!(errors.as_slice().len(), 1_001);
    assert!(errors.as_slice().last().unwrap().problem.ends_with(" more errors"));
    // The first errors are shown, also if they come late.
    let text = file(2_500, 20) + &text;
    let errors = parse(&text, "f").unwrap_err();
    let line = text[..text.find("\nx\n").unwrap()].lines().count();
    assert_eq!((errors.as_slice()[0].line, errors.as_slice().len()), (line + 1, 1_001));
}
