//! The guest while it runs: QEMU, and a shell of root's on the second serial port that does what it is told.
//!
//! The shell is an interactive bash, as it is for somebody who pastes commands. systemd itself starts it (`systemd.debug_shell`): the image has
//! nothing for it.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use crate::qemu;

/// The guest's memory.
const MEBIBYTES: u32 = 2048;
/// How long the guest may take until its shell answers; some 30 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(600);
/// How often the shell is called until it answers: what comes before it is there is lost.
const CALL: Duration = Duration::from_secs(2);
/// How long an interrupted command has to end.
const INTERRUPTED: Duration = Duration::from_secs(20);

/// The guest's network cards: their model, and the cable that they are on. `prepare.sh` knows their addresses by their order.
const CARDS: [(&str, u32); 4] = [
    // The edge's `eth0`, and what is at the other end.
    ("virtio-net-pci", 0),
    ("virtio-net-pci", 0),
    // The edge's `eth1`, whose driver strips VLAN tags, and the other end.
    ("e1000e", 1),
    ("virtio-net-pci", 1),
];

/// Where the first serial port, the kernel's console, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    /// In `console.log`.
    Log,
    /// Where this program was started.
    Here,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// None if its time was up, or the guest died.
    pub(super) code: Option<i32>,
    /// The guest's seconds since it started, when the command had ended.
    pub(super) uptime: f64,
    pub(super) output: Vec<String>,
}

/// A guest that runs. It ends with this.
pub(super) struct Machine {
    qemu: Child,
    shell: UnixStream,
    /// What came and was not looked at.
    received: Vec<u8>,
    mark: String,
    /// How many ends were asked for.
    ends: u32,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

impl Machine {
    /// Starts the guest with a second disk and waits until its shell answers.
    pub(super) fn boot(image: &Image, disk: &Path, place: &Path, console: Console) -> Result<Self> {
        // A socket's path is short.
        let folder = env::temp_dir().join(format!("elb-{}-guest", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let socket = folder.join("shell");
        let qemu = start(image, disk, &socket, &place.join("console.log"), console);
        let connected = qemu.and_then(|mut qemu| match connect(&socket, &mut qemu) {
            Ok(shell) => Ok((qemu, shell)),
            Err(error) => {
                drop(qemu.kill());
                drop(qemu.wait());
                Err(error)
            }
        });
        // Its name is not needed again.
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        let (qemu, shell) = connected?;
        shell.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut machine = Self {
            qemu,
            shell,
            received: Vec::new(),
            mark: format!("elb-{}", std::process::id()),
            ends: 0,
        };
        machine.greet()?;
        Ok(machine)
    }

    /// Calls until the shell answers, and has it be as one that somebody pastes into, but without echo and prompts.
    fn greet(&mut self) -> Result<()> {
        let begun = Instant::now();
        let greeting = format!("{}-ready", self.mark);
        let mut called: Option<Instant> = None;
        // The terminal echoes what it gets: only its answer has the word unbroken.
        while !contains(&self.received, greeting.as_bytes()) {
            if begun.elapsed() > BOOT {
                bail!("the guest's shell did not answer within {} s", BOOT.as_secs());
            }
            if called.is_none_or(|called| called.elapsed() >= CALL) {
                called = Some(Instant::now());
                self.send(&format!("\necho {}''-ready\n", self.mark))?;
            }
            self.receive()?;
        }
        self.send("export TERM=dumb\nexec bash --noediting --norc -i\nstty -echo\nPS1= PS2=\n")?;
        let ready = self.run("systemctl is-system-running --wait", BOOT)?;
        match ready.code {
            // 1: a unit failed, which is shown.
            Some(0 | 1) => Ok(()),
            _ => bail!("systemd did not come to an end of its start: {:?}", ready.output),
        }
    }

    /// Runs a command as if it were pasted, and waits for its end.
    pub(super) fn run(&mut self, command: &str, limit: Duration) -> Result<Outcome> {
        self.send(&format!("{command}\n"))?;
        if let Some(outcome) = self.end(limit)? {
            return Ok(outcome);
        }
        // ^C, which also throws away what the terminal has not been read of. What was printed is worth having in any case.
        self.send("\x03")?;
        let interrupted = self.end(INTERRUPTED)?;
        Ok(Outcome {
            code: None,
            uptime: interrupted.as_ref().map_or(0.0, |outcome| outcome.uptime),
            output: match interrupted {
                Some(outcome) => outcome.output,
                None => lines(&std::mem::take(&mut self.received)),
            },
        })
    }

    /// Has the shell say when it comes to read on, and waits for that.
    fn end(&mut self, limit: Duration) -> Result<Option<Outcome>> {
        self.ends += 1;
        let (mark, ends) = (&self.mark, self.ends);
        let (asked, end) = (format!("{mark}''-end-{ends}"), format!("\n{mark}-end-{ends} "));
        self.send(&format!(
            "printf '\\n%s %s %s\\n' {asked} \"$?\" \"$(cut -d ' ' -f 1 /proc/uptime)\"\n"
        ))?;
        self.until(&end, limit)
    }

    /// Waits for the line that ends a command's output.
    fn until(&mut self, end: &str, limit: Duration) -> Result<Option<Outcome>> {
        let begun = Instant::now();
        loop {
            if let Some((outcome, used)) = ended(&self.received, end) {
                self.received.drain(..used);
                return Ok(Some(outcome));
            }
            if begun.elapsed() > limit {
                return Ok(None);
            }
            self.receive()?;
        }
    }

    /// Waits until the guest has ended, by a person or of itself.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.qemu.wait()?)
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.shell.write_all(text.as_bytes()).context("the guest has ended")
    }

    fn receive(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        match self.shell.read(&mut bytes) {
            Ok(0) => bail!("the guest has ended"),
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => Err(error).context("the guest has ended"),
        }
    }
}

fn start(image: &Image, disk: &Path, socket: &Path, log: &Path, console: Console) -> Result<Child> {
    let mut qemu = qemu::command(MEBIBYTES);
    qemu.arg("-kernel")
        .arg(&image.vmlinuz)
        .arg("-initrd")
        .arg(&image.initrd);
    qemu.arg("-append").arg(format!(
        "{} root=/dev/vda rw fsck.mode=skip net.ifnames=0 quiet systemd.debug_shell=ttyS1",
        qemu::KERNEL_WORDS
    ));
    // What a guest writes goes to a file without a name, and with QEMU.
    for (file, options) in [(&image.disk, "snapshot=on"), (&disk.to_owned(), "readonly=on")] {
        qemu.arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,{options}", escaped(file)));
    }
    match console {
        Console::Log => qemu.arg("-serial").arg(format!("file:{}", log.display())),
        Console::Here => qemu.args(["-serial", "mon:stdio"]),
    };
    qemu.arg("-chardev")
        .arg(format!("socket,id=shell,path={},server=on,wait=off", escaped(socket)));
    qemu.args(["-serial", "chardev:shell"]);
    for (number, (model, cable)) in CARDS.iter().enumerate() {
        qemu.arg("-netdev").arg(format!("hubport,id=n{number},hubid={cable}"));
        qemu.arg("-device")
            .arg(format!("{model},netdev=n{number},mac=52:54:00:00:00:{number:02x}"));
    }
    if console == Console::Log {
        // That its cables lead nowhere else is no news.
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        let errors = log.with_file_name("qemu.log");
        qemu.stderr(fs::File::create(&errors).with_context(|| format!("writing {}", errors.display()))?);
    }
    qemu.spawn().context("qemu-system-x86_64 cannot be started")
}

/// QEMU's options end at commas.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn connect(socket: &Path, qemu: &mut Child) -> Result<UnixStream> {
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("qemu-system-x86_64 ended at once: {status}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// A command's outcome, and how many bytes that was, once its end has come.
fn ended(received: &[u8], end: &str) -> Option<(Outcome, usize)> {
    // The terminal makes "\r\n" of "\n".
    let at = received.windows(end.len()).position(|bytes| bytes == end.as_bytes())?;
    let rest = &received[at + end.len()..];
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&rest[..length]);
    let mut words = line.split_whitespace();
    let outcome = Outcome {
        code: words.next()?.parse().ok(),
        uptime: words.next()?.parse().ok()?,
        output: lines(&received[..at]),
    };
    Some((outcome, at + end.len() + length + 1))
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| line.trim_end_matches('\r').to_owned());
    let mut lines: Vec<String> = lines.skip_while(String::is_empty).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_at_its_mark() {
        let received = b"\r\nbash: x: not found\r\n\r\nT-end 127 12.50\r\nmore";
        let (outcome, used) = ended(received, "\nT-end ").unwrap();
        assert_eq!(
            outcome,
            Outcome {
                code: Some(127),
                uptime: 12.5,
                output: vec!["bash: x: not found".into()],
            }
        );
        assert_eq!(&received[used..], b"more");
        for unfinished in ["", "x T-end 0 1\n", "\nT-end 0 1.", "\nT-end 0\n"] {
            assert_eq!(ended(unfinished.as_bytes(), "\nT-end "), None, "{unfinished:?}");
        }
    }
}
