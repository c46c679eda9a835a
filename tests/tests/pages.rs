//! The pages beside the code: their links lead somewhere, and the table of dependencies is that of the manifests.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The directories, seen from the top, that have pages.
const WITH_PAGES: [&str; 5] = [".", "docs", "fuzz", "packaging", "tests"];
const MANIFESTS: [&str; 7] = [
    "Cargo.toml",
    "lb-common/Cargo.toml",
    "lb-ebpf/Cargo.toml",
    "lb-userspace/Cargo.toml",
    "xtask/Cargo.toml",
    "tests/Cargo.toml",
    "fuzz/Cargo.toml",
];

#[test]
fn relative_links_lead_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages()? {
        let text = prose(&fs::read_to_string(&page)?);
        for target in links(&text).filter(|target| is_relative(target)) {
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => page.clone(),
                file => page.parent().unwrap_or(Path::new(".")).join(file),
            };
            let found = to.exists() && (anchor.is_empty() || anchors(&fs::read_to_string(&to)?).contains(anchor));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 10, "only {count} links found");
    Ok(())
}

#[test]
fn the_table_of_dependencies_is_the_manifests() -> Result<()> {
    let mut used = BTreeSet::new();
    for manifest in MANIFESTS {
        used.extend(dependencies(&fs::read_to_string(root().join(manifest))?));
    }
    let page = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let section = page
        .split("\n## Why each dependency\n")
        .nth(1)
        .context("no section about dependencies")?;
    let rows: Vec<Vec<&str>> = section
        .lines()
        .skip_while(|line| !line.starts_with("| ---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for row in &rows {
        assert!(row.len() == 3 && !row[2].is_empty(), "no reason in {row:?}");
    }
    let explained: Vec<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert!(explained.is_sorted(), "not in alphabetical order: {explained:?}");
    assert_eq!(used, explained.into_iter().collect());
    Ok(())
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() -> Result<()> {
    const UNITS: [&str; 2] = ["lbd.service", "lbd-backend@.service"];
    let folder = tempfile::tempdir()?;
    let mut paths = Vec::new();
    for unit in UNITS {
        let text = fs::read_to_string(root().join("packaging").join(unit))?;
        // The programs need not be installed here.
        let text = text
            .replace("/usr/local/sbin/lbd ", "/bin/true ")
            .replace("/usr/local/sbin/lbctl ", "/bin/true ");
        let path = folder.path().join(unit.replace('@', "@eth0"));
        fs::write(&path, text)?;
        paths.push(path);
    }
    let checked = Command::new("systemd-analyze").arg("verify").args(&paths).output();
    let output = match checked {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("left out: no systemd-analyze here");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}

#[test]
fn a_pages_links_and_anchors_are_found() {
    let text = "See [a](a.md#b-c) and ![b](b.svg), `[x](y)`.\n```\n[no](no.md)\n```\n[c](https://example.com)\n";
    let text = prose(text);
    let found: Vec<_> = links(&text).collect();
    assert_eq!(found, ["a.md#b-c", "b.svg", "https://example.com"]);
    assert!(is_relative("a.md") && !is_relative("https://example.com"));
    let anchors = anchors("# One: *two* `three_3`\n## Limits, as they are\ntext\n");
    assert_eq!(
        anchors,
        ["limits-as-they-are", "one-two-three_3"].map(String::from).into()
    );
    let manifest = "[package]\nname = 1\n[dependencies]\na.workspace = true\n# b = 1\nc = { x = 1 }\n[dev-dependencies]\nd = \"1\"\n";
    assert_eq!(dependencies(manifest), ["a", "c", "d"].map(String::from).into());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for directory in WITH_PAGES {
        let Ok(entries) = fs::read_dir(root().join(directory)) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// A page without its code.
fn prose(page: &str) -> String {
    let outside = page.split("```").step_by(2);
    let inline = outside.flat_map(|part| part.split('`').step_by(2));
    inline.collect()
}

/// Targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

/// The anchors that GitHub gives to a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// The names in a manifest's tables of dependencies.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            names.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    names
}
