//! Says what is being done, why, and for how long: redrawn in place on a terminal, plain lines elsewhere.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, IsTerminal as _, Read, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How often a plain log is told that a step is still running.
const REMINDER: Duration = Duration::from_secs(30);
/// How many lines of a failed step's output are shown.
const TAIL: usize = 12;

/// Where progress is shown (standard error), and the file that keeps the steps' own output.
pub(crate) struct Progress {
    terminal: bool,
    colour: bool,
    log: PathBuf,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal() && env::var_os("CI").is_none();
        let colour = terminal && env::var_os("NO_COLOR").is_none();
        Self {
            terminal,
            colour,
            log: xtask::target_dir().join("setup.log"),
        }
    }

    /// Begins a part of the work.
    pub(crate) fn heading(&self, text: &str) {
        eprintln!("{}", self.paint("1", text));
    }

    /// Something that needs no doing.
    pub(crate) fn have(&self, text: &str) {
        eprintln!("  {} {text}", self.paint("32", "✓"));
    }

    /// Something to know, which does not stop the work.
    pub(crate) fn warn(&self, text: &str) {
        eprintln!("  {} {text}", self.paint("33", "!"));
    }

    /// Runs one step to its end. Its output goes to the log; its last line is shown while it runs, its last lines if it fails.
    pub(crate) fn run(&self, what: &str, why: &str, command: &mut Command) -> Result<()> {
        let begun = Instant::now();
        if !self.terminal {
            eprintln!("  … {what}: {why}");
        }
        let log = self.open_log(what, command)?;
        let mut child = command
            // rustup's would push its error out of the lines that are shown.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let readers: Vec<_> = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)]
            .into_iter()
            .flatten()
            .map(|pipe| (pipe, log.try_clone(), Arc::clone(&lines)))
            .map(|(pipe, log, lines)| thread::spawn(move || keep_lines(pipe, log.ok(), &lines)))
            .collect();

        let mut reminded = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let last = lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .last()
                .cloned()
                .unwrap_or_default();
            if self.terminal {
                self.redraw(
                    &format!(
                        "  … {what}: {why}, {:.0?} ",
                        Duration::from_secs(begun.elapsed().as_secs())
                    ),
                    &last,
                );
            } else if reminded.elapsed() >= REMINDER {
                reminded = Instant::now();
                eprintln!("    {} s: {last}", begun.elapsed().as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        };
        for reader in readers {
            // A reader cannot fail; and if it did, only a line of progress would be lost.
            drop(reader.join());
        }
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        if status.success() {
            eprintln!(
                "  {} {what} ({:.1} s)",
                self.paint("32", "✓"),
                begun.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        eprintln!(
            "  {} {what} ({:.1} s)",
            self.paint("31", "✗"),
            begun.elapsed().as_secs_f64()
        );
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("    {}", self.paint("2", line));
        }
        bail!(
            "{what} failed ({status}); all of its output is in {}",
            self.log.display()
        )
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }

    fn redraw(&self, text: &str, last: &str) {
        let width = env::var("COLUMNS")
            .ok()
            .and_then(|columns| columns.parse().ok())
            .unwrap_or(100);
        let room = width.max(20) - 1;
        let text: String = text.chars().take(room).collect();
        let last: String = last.chars().take(room - text.chars().count()).collect();
        eprint!("\r\x1b[2K{text}{}", self.paint("2", &last));
    }

    fn open_log(&self, what: &str, command: &Command) -> Result<File> {
        fs::create_dir_all(xtask::target_dir())?;
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("writing {}", self.log.display()))?;
        writeln!(log, "\n== {what}\n{command:?}")?;
        Ok(log)
    }
}

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn keep_lines(pipe: Box<dyn Read + Send>, mut log: Option<File>, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // What a bar redrew on one line counts once.
        let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
        if line.trim().is_empty() {
            continue;
        }
        if let Some(log) = &mut log {
            drop(writeln!(log, "{line}"));
        }
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
