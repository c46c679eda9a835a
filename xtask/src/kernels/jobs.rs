//! What the guests run: test programs of the workspace, built by cargo as `cargo test` builds them.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::guest::Job;
use crate::outer_cargo;

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    /// Every program is accepted by the verifier.
    Loads,
    /// Frames through the programs, byte for byte.
    Packets,
    /// Routes, neighbours and a backend's set-up.
    Hosts,
    /// Health probes by the users' path.
    Probes,
    /// Clients and servers with the daemon between them.
    EndToEnd,
    /// The kernel's own tunnel devices at the backends.
    Tunnels,
}

impl Column {
    pub(super) const ALL: [Self; 6] = [
        Self::Loads,
        Self::Packets,
        Self::Hosts,
        Self::Probes,
        Self::EndToEnd,
        Self::Tunnels,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Loads => "loads",
            Self::Packets => "packet tables",
            Self::Hosts => "hosts",
            Self::Probes => "probes",
            Self::EndToEnd => "end to end",
            Self::Tunnels => "kernel tunnels",
        }
    }
}

/// A test program, or a part of it.
struct Test {
    column: Column,
    /// Its name in what is shown.
    name: &'static str,
    package: &'static str,
    /// The integration test's name.
    target: &'static str,
    /// What the tests' names contain, or another argument that chooses among them; nothing: all.
    filter: &'static str,
    /// In seconds: some four times what it takes where nothing else runs. A guest computes some ten times slower than its machine.
    limit: u64,
}

const TESTS: &[Test] = &[
    Test {
        column: Column::Loads,
        name: "loads",
        package: "lb-userspace",
        target: "loads",
        filter: "",
        limit: 180,
    },
    Test {
        column: Column::Loads,
        name: "budget",
        package: "lb-userspace",
        target: "verifier",
        filter: "",
        limit: 180,
    },
    Test {
        column: Column::Packets,
        name: "balance-packets",
        package: "lb-userspace",
        target: "packets",
        filter: "",
        limit: 600,
    },
    Test {
        column: Column::Packets,
        name: "decap-packets",
        package: "lb-userspace",
        target: "backend",
        filter: "packets::",
        limit: 300,
    },
    Test {
        column: Column::Hosts,
        name: "backend-role",
        package: "lb-userspace",
        target: "backend",
        filter: "role::",
        limit: 600,
    },
    Test {
        column: Column::Hosts,
        name: "netlink",
        package: "lb-userspace",
        target: "netlink",
        // What those of `scale` measure is the machine.
        filter: "--skip=scale::",
        limit: 600,
    },
    Test {
        column: Column::Probes,
        name: "users-path",
        package: "lb-userspace",
        target: "path",
        filter: "",
        limit: 300,
    },
    Test {
        column: Column::EndToEnd,
        name: "end-to-end",
        package: "lb-tests",
        target: "end_to_end",
        filter: "every_mode_and_family",
        limit: 600,
    },
    Test {
        column: Column::EndToEnd,
        name: "flooding",
        package: "lb-tests",
        target: "flooding",
        filter: "",
        limit: 300,
    },
    Test {
        column: Column::EndToEnd,
        name: "interfaces",
        package: "lb-tests",
        target: "interfaces",
        filter: "front::",
        limit: 300,
    },
    Test {
        column: Column::Tunnels,
        name: "kernel-tunnels",
        package: "lb-tests",
        target: "kernel_tunnels",
        filter: "",
        limit: 600,
    },
];

/// What was built.
pub(super) struct Tests {
    /// Each job with its column, in the order of the table.
    pub(super) jobs: Vec<(Column, Job)>,
    /// The programs that the jobs start: the file here, and its path in a guest.
    pub(super) programs: BTreeMap<PathBuf, PathBuf>,
}

/// Builds the tests whose name contains the filter.
pub(super) fn build(only: Option<&str>) -> Result<Tests> {
    let wanted: Vec<&Test> = TESTS
        .iter()
        .filter(|test| only.is_none_or(|only| test.name.contains(only)))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = TESTS.iter().map(|test| test.name).collect();
        bail!(
            "no test is named {:?}; there are {}",
            only.unwrap_or_default(),
            names.join(", ")
        );
    }
    let mut tests = Tests {
        jobs: Vec::new(),
        programs: BTreeMap::new(),
    };
    let built = compile(&wanted)?;
    for test in wanted {
        let directory = xtask::root().join(match test.package {
            "lb-tests" => "tests",
            package => package,
        });
        // Two packages may have a target of one name, and cargo then builds both.
        let program = built
            .get(&(directory.join("Cargo.toml"), test.target.to_owned()))
            .with_context(|| format!("cargo built no {} of {}", test.target, test.package))?;
        let inside = PathBuf::from("/edgelb/tests").join(test.package).join(test.target);
        tests.jobs.push((
            test.column,
            Job {
                name: test.name.into(),
                limit: Duration::from_secs(test.limit),
                directory: directory.display().to_string(),
                // One at a time, and what it prints as it prints it: the last line before a hang is worth a lot.
                command: format!("{} --test-threads=1 --nocapture {}", inside.display(), test.filter),
            },
        ));
        tests.programs.insert(program.clone(), inside);
    }
    Ok(tests)
}

/// Test programs by their package's manifest and their target's name.
type Executables = BTreeMap<(PathBuf, String), PathBuf>;

/// Builds the programs.
fn compile(tests: &[&Test]) -> Result<Executables> {
    let mut cargo = outer_cargo()?;
    cargo.args([
        "test",
        "--no-run",
        "--locked",
        "--message-format=json-render-diagnostics",
    ]);
    for test in tests {
        cargo.args(["--package", test.package, "--test", test.target]);
    }
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The test programs that cargo's messages name.
fn executables(messages: &str) -> Executables {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| {
            let manifest = PathBuf::from(message["manifest_path"].as_str()?);
            let target = message["target"]["name"].as_str()?.to_owned();
            Some(((manifest, target), PathBuf::from(message["executable"].as_str()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"aya"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"lbd"},"executable":"/t/lbd"}
{"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","target":{"kind":["test"],"name":"packets"},"executable":"/t/deps/packets-01"}
{"reason":"compiler-artifact","manifest_path":"/b/Cargo.toml","target":{"kind":["test"],"name":"packets"},"executable":"/t/deps/packets-02"}
not JSON
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executables(messages),
            BTreeMap::from([
                (("/a/Cargo.toml".into(), "packets".into()), "/t/deps/packets-01".into()),
                (("/b/Cargo.toml".into(), "packets".into()), "/t/deps/packets-02".into()),
            ])
        );
    }
}
