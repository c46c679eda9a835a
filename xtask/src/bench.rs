//! `cargo xtask bench`: the packet benchmark of lb-userspace, and that of another revision beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    outer_cargo,
    setup::{self, Scope},
};

/// The benchmark's options: its own `--help` lists them.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds and runs the benchmark.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Scope::Build)?;
    let bench = executable(outer_cargo()?, &xtask::target_dir())?;
    let mut command = Command::new(bench);
    command.args(&args.rest);
    if let Some(revision) = against(&args.rest)? {
        command.arg("--against-bench").arg(other(revision)?);
    }
    let status = command.status().context("the benchmark cannot be started")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

/// The revision that `--against` names: all that must be known here of the benchmark's options.
fn against(args: &[String]) -> Result<Option<&str>> {
    for (position, arg) in args.iter().enumerate() {
        if arg == "--against" {
            let revision = args
                .get(position + 1)
                .context("--against needs a revision: a branch, a tag or a commit")?;
            return Ok(Some(revision));
        }
        if let Some(revision) = arg.strip_prefix("--against=") {
            return Ok(Some(revision));
        }
    }
    Ok(None)
}

/// The other revision's benchmark, built in a worktree under target/.
fn other(revision: &str) -> Result<PathBuf> {
    let root = xtask::root();
    let commit = git(&root, &["rev-parse", "--verify", &format!("{revision}^{{commit}}")])
        .with_context(|| format!("--against {revision}"))?;
    let folder = xtask::target_dir().join("against");
    let (tree, target) = (folder.join("tree"), folder.join("target"));
    let path = tree.to_string_lossy();
    if tree.exists() {
        git(&tree, &["checkout", "--quiet", "--force", "--detach", &commit])?;
    } else {
        // A tree that `clean` removed is still registered.
        git(&root, &["worktree", "prune"])?;
        git(&root, &["worktree", "add", "--quiet", "--detach", &path, &commit])?;
    }
    if !tree.join("lb-userspace/benches/packets").is_dir() {
        bail!("--against {revision}: {commit:.10} has no packet benchmark yet");
    }
    fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
    let record = target.join("ebpf-toolchain.toml");
    fs::copy(xtask::record::path(), &record).with_context(|| format!("writing {}", record.display()))?;
    eprintln!("building {commit:.10}");
    let mut cargo = outer_cargo()?;
    cargo.current_dir(&tree).env("CARGO_TARGET_DIR", &target);
    executable(cargo, &target)
}

/// Builds the benchmark with a cargo that is set up for it, and says where it is.
fn executable(mut cargo: Command, target: &Path) -> Result<PathBuf> {
    let output = cargo
        .args([
            "bench",
            "--no-run",
            "--locked",
            "--package",
            "lb-userspace",
            "--bench",
            "packets",
        ])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the benchmark does not build; what cargo says is above");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "packets")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .with_context(|| format!("cargo built no benchmark in {}", target.display()))
}

fn git(folder: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(args)
        .current_dir(folder)
        .output()
        .context("git cannot be started")?;
    if !output.status.success() {
        bail!(
            "`git {}`: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn against_is_found_wherever_it_stands() {
        for (line, revision) in [
            ("--quick --against main", Some("main")),
            ("--against=HEAD~3 --quick", Some("HEAD~3")),
            ("--quick", None),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(against(&args).unwrap(), revision, "{line}");
        }
        assert!(against(&["--against".to_owned()]).is_err());
    }
}
