//! `cargo xtask guest`: edgelb on a machine with systemd as its first process, under QEMU without KVM. README's commands are pasted into it,
//! then its units are looked at.

mod image;
mod machine;
mod payload;
mod readme;
mod steps;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_tests::edge;

use self::{
    machine::{Console, Machine, Outcome},
    readme::{Host, Pasted},
    steps::{INSTALLED, LIMIT, PREPARE, STEPS, Step},
    table::{Row, Verdict},
};
use crate::{
    Programs, build,
    kernels::MIRROR,
    qemu,
    setup::{self, Scope},
};

/// What is done in the guest.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these steps, after README's commands; may be given more than once
    #[arg(long = "step", value_name = "NAME")]
    steps: Vec<String>,
    /// The guest's console is here, without any step but those of `--step`; root has no password, and what the guest writes is gone
    /// afterwards. Control-A X ends it
    #[arg(long)]
    shell: bool,
    /// Shows what commands and steps print, also when they pass
    #[arg(long)]
    verbose: bool,
    /// Makes the image again, of newer packages
    #[arg(long)]
    update: bool,
    /// Debian's archive or a mirror of it
    #[arg(long, default_value = MIRROR, value_name = "URL")]
    mirror: String,
}

/// How long the first balanced request may take after the last command.
const FIRST: Duration = Duration::from_secs(300);
/// How often it is tried.
const REQUEST: &str = "until nsenter --net=/run/netns/client curl -sSf -m 5 http://192.0.2.10/; do sleep 0.2; done";
/// How many lines of the console are shown of a guest that died.
const TAIL: usize = 30;

/// Boots the guest and prints what became of each step.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let chosen = chosen(args)?;
    setup::ensure(Scope::Guest)?;
    let readme = fs::read_to_string(xtask::root().join("README.md")).context("README.md")?;
    let commands = readme::commands(&readme)?;
    let image = image::image(&args.mirror, args.update)?;
    let programs = programs()?;
    let place = place()?;
    let disk = payload::write(&place, &programs, &readme)?;

    let console = if args.shell { Console::Here } else { Console::Log };
    eprintln!("booting the guest");
    let begun = Instant::now();
    let mut rows = Vec::new();
    let done = Machine::boot(&image, &disk, &place, console).and_then(|mut machine| {
        if console == Console::Log {
            eprintln!("booted in {:.0} s", begun.elapsed().as_secs_f64());
        }
        prepare(&mut machine)?;
        if !args.shell || !chosen.is_empty() {
            paste(&mut machine, &commands, args.verbose, &mut rows)?;
            for step in &chosen {
                take(&mut machine, step, args.verbose, &mut rows)?;
            }
        }
        if args.shell {
            eprintln!("\r\nThe tree is in /root/edgelb; `ip netns` has the other hosts. Control-A X ends the guest.\r");
            machine.wait()?;
        }
        Ok(())
    });
    if done.is_err() && console == Console::Log {
        eprintln!(
            "the end of the console, which is in {}:",
            crate::short(&place).display()
        );
        for file in ["console.log", "qemu.log"] {
            for line in qemu::tail(&place.join(file), TAIL) {
                eprintln!("   {line}");
            }
        }
    }
    print!("{}", table::render(&rows));
    done?;
    Ok(match rows.iter().any(|row| row.verdict == Verdict::Failed) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn chosen(args: &Args) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = args
        .steps
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("no step {unknown:?}; there are {}", names.join(", "));
    }
    let all = args.steps.is_empty() && !args.shell;
    Ok(STEPS
        .iter()
        .filter(|step| all || args.steps.iter().any(|name| name == step.name))
        .collect())
}

/// Those that `LBD_BIN` and `LBCTL_BIN` name, else those that a build makes.
fn programs() -> Result<Programs> {
    if std::env::var_os("LBD_BIN").is_none() || std::env::var_os("LBCTL_BIN").is_none() {
        return build();
    }
    let edge::Programs { lbd, lbctl } = edge::Programs::find()?;
    Ok(Programs { lbd, lbctl })
}

/// Where this run's files are. Those of former runs go.
fn place() -> Result<PathBuf> {
    let place = image::directory().join(format!("run-{}", std::process::id()));
    for entry in fs::read_dir(image::directory())? {
        let path = entry?.path();
        let maker = path.file_name().and_then(|name| name.to_str()?.strip_prefix("run-"));
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
    Ok(place)
}

fn prepare(machine: &mut Machine) -> Result<()> {
    let unpack = machine.run("tar -xf /dev/vdb -C /root", LIMIT)?;
    let made = machine.run(&PREPARE.command(), LIMIT)?;
    if unpack.code != Some(0) || made.code != Some(0) {
        bail!(
            "{} cannot be made in the guest:\n{}",
            PREPARE.shows,
            [unpack.output, made.output].concat().join("\n")
        );
    }
    machine.run("cd /root/edgelb", LIMIT)?;
    Ok(())
}

/// Pastes README's commands, each after the one before has ended, and waits for the first request that a backend answers.
fn paste(machine: &mut Machine, commands: &[Pasted], verbose: bool, rows: &mut Vec<Row>) -> Result<()> {
    let begun = machine.run(":", LIMIT)?.uptime;
    let mut failed = 0;
    let mut before = begun;
    for command in commands {
        let outcome = machine.run(&command.text, LIMIT)?;
        let good = outcome.code == Some(0);
        eprintln!(
            "  {} {} {} ({:.1} s)",
            if good { "✓" } else { "✗" },
            match command.host {
                Host::Edge => "edge:   ",
                Host::Backend => "backend:",
            },
            command.head(),
            (outcome.uptime - before).max(0.0)
        );
        failed += u32::from(!good);
        show(&outcome, verbose || !good);
        before = outcome.uptime;
    }
    let first = machine.run(REQUEST, if failed == 0 { FIRST } else { Duration::from_secs(5) })?;
    let balanced = first.code == Some(0);
    let programs: usize = commands.iter().map(Pasted::programs).sum();
    let mut figures = vec![format!(
        "{} commands pasted, which run {programs} programs",
        commands.len()
    )];
    if balanced {
        let seconds = first.uptime - begun;
        figures.push(format!(
            "{:.1} minutes ({seconds:.0} s) from the first of them to the first balanced request",
            seconds / 60.0
        ));
    }
    if failed > 0 {
        figures.push(format!("{failed} of them failed"));
    }
    if !balanced {
        figures.push("no request was balanced: the other steps go on with an installation of the guest's own".into());
        show(&first, true);
        show(&machine.run("lbctl service show web", LIMIT)?, true);
    }
    rows.push(Row {
        name: "readme",
        shows: "README's commands, pasted as they stand, lead to a balanced request",
        verdict: match failed == 0 && balanced {
            true => Verdict::Passed,
            false => Verdict::Failed,
        },
        seconds: first.uptime.max(before) - begun,
        figures,
    });
    let installed = machine.run(&INSTALLED.command(), LIMIT)?;
    show(&installed, verbose);
    if installed.code != Some(0) {
        bail!("{} failed:\n{}", INSTALLED.shows, installed.output.join("\n"));
    }
    Ok(())
}

fn take(machine: &mut Machine, step: &Step, verbose: bool, rows: &mut Vec<Row>) -> Result<()> {
    let begun = machine.run(":", LIMIT)?.uptime;
    let outcome = machine.run(&step.command(), LIMIT)?;
    let row = Row::new(step, &outcome, begun);
    eprintln!("  {} {}: {}", row.verdict.sign(), step.name, step.shows);
    show(&outcome, verbose || row.verdict == Verdict::Failed);
    rows.push(row);
    Ok(())
}

fn show(outcome: &Outcome, wanted: bool) {
    if !wanted {
        return;
    }
    for line in &outcome.output {
        eprintln!("      {line}");
    }
    match outcome.code {
        Some(0) => {}
        Some(code) => eprintln!("      exit status {code}"),
        None => eprintln!("      its time was up"),
    }
}
