//! What is brought into the guest: a built tree, as it is after a clone and a build, and the steps. It is a second disk that holds a tar archive.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::steps::{INSTALLED, LIBRARY, PREPARE, STEPS};
use crate::{Programs, progress::Progress};

/// What of the workspace an installation is made from.
const TREE: [&str; 4] = ["README.md", "LICENSE-APACHE", "LICENSE-GPL-2.0", "packaging"];

/// Writes the archive and returns where it is.
pub(super) fn write(place: &Path, programs: &Programs, readme: &str) -> Result<PathBuf> {
    let stage = place.join("stage");
    let (tree, steps) = (stage.join("edgelb"), stage.join("steps"));
    let release = tree.join("target/release");
    for folder in [&release, &steps] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    for name in TREE {
        let status = Command::new("cp")
            .arg("-R")
            .arg(xtask::root().join(name))
            .arg(&tree)
            .status()
            .context("`cp` cannot be started")?;
        if !status.success() {
            bail!("{name} cannot be copied");
        }
    }
    for (from, name) in [(&programs.lbd, "lbd"), (&programs.lbctl, "lbctl")] {
        fs::copy(from, release.join(name)).with_context(|| format!("reading {}", from.display()))?;
    }
    fs::write(tree.join("example.toml"), example(readme)?)?;
    for step in STEPS.iter().chain([&PREPARE, &INSTALLED]) {
        fs::write(steps.join(format!("{}.sh", step.name)), step.script)?;
    }
    fs::write(steps.join("lib.sh"), LIBRARY)?;

    let archive = place.join("payload.tar");
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&stage)
        .arg(".");
    Progress::new().run("tar", "the tree and the steps, as the guest's second disk", &mut tar)?;
    fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    Ok(archive)
}

/// README's complete configuration: the block, marked `toml` or in a heredoc, that has a table of the node.
fn example(readme: &str) -> Result<&str> {
    let start = readme.find("[node]\n").context("README has no configuration")?;
    let rest = &readme[start..];
    let end = ["\n```", "\nEOF"].iter().filter_map(|end| rest.find(end)).min();
    end.map(|end| &rest[..=end])
        .context("README's configuration does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_readme_has_a_configuration() {
        let readme = fs::read_to_string(xtask::root().join("README.md")).unwrap();
        let example = example(&readme).unwrap();
        assert!(example.contains("[[service]]") && example.ends_with('\n') && !example.contains("```"));
    }
}
