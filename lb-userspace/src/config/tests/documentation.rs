//! What `docs/configuration.md` shows is true, and it leaves no key out; and the README's example is right.

use super::{check_warnings, parse, table};

const PAGE: &str = include_str!("../../../../docs/configuration.md");
const README: &str = include_str!("../../../../README.md");

/// A page's code blocks that begin with ```` ```{kind} ````.
fn blocks(page: &'static str, kind: &str) -> Vec<&'static str> {
    let start = format!("\n```{kind}\n");
    page.split(&start)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

#[test]
fn its_examples_are_right() {
    let examples = blocks(PAGE, "toml");
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert!(!check_warnings(example, &[]).services.is_empty());
    }
}

#[test]
fn the_readmes_example_is_right() {
    let blocks = blocks(README, "sh");
    let [commands] = blocks.as_slice() else {
        panic!("one block of commands")
    };
    let (_, rest) = commands.split_once("/etc/lbd/edge.toml <<'EOF'\n").expect("the file");
    let (example, _) = rest.split_once("EOF\n").expect("its end");
    let model = check_warnings(example, &[]);
    assert_eq!(model.services[0].backends.len(), 3);
}

#[test]
fn its_bad_example_has_the_errors_that_it_shows() {
    let (bad, shown) = (blocks(PAGE, "toml bad"), blocks(PAGE, "text"));
    let ([bad], [shown]) = (bad.as_slice(), shown.as_slice()) else {
        panic!("one of each")
    };
    let errors = parse(bad, "edge.toml").unwrap_err();
    assert_eq!(format!("{errors}\n"), *shown);
}

#[test]
fn its_tables_have_every_key_and_no_other() {
    let sections = [
        ("## `[node]`", table::NODE),
        ("## `[node.capacity]`", table::CAPACITY),
        ("## `[[alert]]`", table::ALERT),
        ("## `[[service]]`", table::SERVICE),
        ("## `[service.damping]`", table::DAMPING),
        ("## `[service.health]`", table::HEALTH),
        ("## `[[service.backend]]`", table::BACKEND),
    ];
    for (header, keys) in sections {
        let section = PAGE.split(header).nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|row| row.split('`').next());
        assert_eq!(rows.collect::<Vec<_>>(), keys, "{header}");
    }
}
