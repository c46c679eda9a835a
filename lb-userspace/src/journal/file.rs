//! The journal's file: one JSON object a line, appended; when it is long it becomes the old one, and the old one goes.
//!
//! It is never synced: what the machine had not written when it lost power is lost, and what it had half written is skipped.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, warn};

use super::kept::Kept;
use crate::api::events::{Event, Severity};
use crate::private;

/// Bytes after which a file is put aside: some 50,000 events.
const LONGEST: u64 = 12 << 20;
/// Events that may wait for a slow disk: those of one outage of 10,000 backends, some 10 MB.
const QUEUE: usize = 50_000;
/// Places in the queue that are for critical events alone.
const RESERVED: usize = 10_000;
/// How long a daemon that stops waits for the disk.
const LAST_WORDS: Duration = Duration::from_secs(1);

const NEW: &str = "events.jsonl";
const OLD: &str = "events.jsonl.1";

/// The events in a folder's files, as many as are kept. Lines that are no event are skipped, as half a last line is.
pub(super) fn read(folder: &Path) -> Kept {
    let mut events = Kept::default();
    for name in [OLD, NEW] {
        let path = folder.join(name);
        let text = match tail(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                warn!(path = %path.display(), %error, "earlier events cannot be read");
                continue;
            }
        };
        for event in text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok()) {
            // Numbers only grow: what is out of order is not ours.
            if events.newest().is_none_or(|last| last < event.id) {
                events.add(Arc::new(event));
            }
        }
    }
    events
}

/// The end of a file, of no more than twice the length that ours have.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LONGEST)))?;
    let mut bytes = Vec::new();
    file.take(2 * LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a folder's events.
///
/// # Errors
/// If a file is there and cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    for name in [OLD, NEW] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The thread that writes.
pub(super) struct Writer {
    queue: Option<SyncSender<Vec<u8>>>,
    /// How many are in the queue.
    waiting: Arc<AtomicUsize>,
    trouble: Arc<Mutex<Trouble>>,
    /// Nothing is ever sent: it ends when the thread does.
    ended: Receiver<()>,
}

/// What the file lacks.
#[derive(Default)]
struct Trouble {
    unwritten: u64,
    why: Option<String>,
}

impl Writer {
    pub(super) fn start(folder: &Path) -> Self {
        let (queue, lines) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let mut pen = Pen {
            folder: folder.to_owned(),
            file: None,
            length: 0,
            trouble: Arc::clone(&trouble),
        };
        let thread = std::thread::Builder::new().name("journal".into());
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let started = thread.spawn(move || {
            let _ending = ending;
            for line in lines {
                left.fetch_sub(1, Ordering::Relaxed);
                pen.put_down(line);
            }
        });
        if let Err(error) = started {
            lock(&trouble).why = Some(format!("no thread for the events' file: {error}"));
        }
        Self {
            queue: Some(queue),
            waiting,
            trouble,
            ended,
        }
    }

    /// Sends an event on its way; never waits.
    pub(super) fn write(&self, event: &Event) {
        let Some(queue) = &self.queue else { return };
        // Plain data: this does not fail.
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let reserved = match event.severity {
            Severity::Critical => 0,
            Severity::Warning | Severity::Info => RESERVED,
        };
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let is_full = waiting + reserved >= QUEUE || matches!(queue.try_send(line), Err(TrySendError::Full(_)));
        if is_full {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let mut trouble = lock(&self.trouble);
            trouble.unwritten += 1;
            trouble.why.get_or_insert_with(|| "the disk is too slow".to_owned());
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        let trouble = lock(&self.trouble);
        let why = trouble.why.as_ref()?;
        Some(format!(
            "{} events are missing in the events' file: {why}; `lbctl events` has them until the daemon stops",
            trouble.unwritten
        ))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        // Either it has ended, or the disk hangs.
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

fn lock(trouble: &Mutex<Trouble>) -> MutexGuard<'_, Trouble> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread holds.
struct Pen {
    folder: PathBuf,
    file: Option<File>,
    length: u64,
    trouble: Arc<Mutex<Trouble>>,
}

impl Pen {
    fn put_down(&mut self, line: Vec<u8>) {
        let outcome = self.try_to(&line);
        let mut trouble = lock(&self.trouble);
        let Err(error) = outcome else {
            if trouble.unwritten == 0 {
                trouble.why = None;
            }
            return;
        };
        // The next event begins with a look at what the file ends with.
        self.file = None;
        trouble.unwritten += 1;
        let why = error.to_string();
        if trouble.why.as_ref() != Some(&why) {
            error!(%error, folder = %self.folder.display(), "events cannot be kept; they are in this log and in memory");
            trouble.why = Some(why);
        }
    }

    fn try_to(&mut self, line: &[u8]) -> io::Result<()> {
        if self.length >= LONGEST {
            self.file = None;
            fs::rename(self.folder.join(NEW), self.folder.join(OLD))?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let (file, length) = open(&self.folder.join(NEW))?;
                self.length = length;
                none.insert(file)
            }
        };
        file.write_all(line)?;
        self.length += line.len() as u64;
        Ok(())
    }
}

/// Opens for appending, at the beginning of a line.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = private::options().read(true).append(true).create(true).open(path)?;
    let mut length = file.metadata()?.len();
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok((file, length))
}
