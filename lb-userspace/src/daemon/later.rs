//! Files that are written beside the loop: a disk that stands still holds no failover up.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// Writes the latest of what it is given, in a thread that lives as long as there is something to write.
#[derive(Clone)]
pub(super) struct Later<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    write: Box<dyn Fn(&T) + Send + Sync>,
    state: Mutex<State<T>>,
    idle: Condvar,
    /// Held while something is written.
    disk: Mutex<()>,
}

struct State<T> {
    waiting: Option<T>,
    running: bool,
}

impl<T: Send + 'static> Later<T> {
    /// With what writes.
    pub(super) fn new(write: impl Fn(&T) + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                write: Box::new(write),
                state: Mutex::new(State {
                    waiting: None,
                    running: false,
                }),
                idle: Condvar::new(),
                disk: Mutex::new(()),
            }),
        }
    }

    /// Has it written soon, in place of what still waits. Never waits.
    pub(super) fn put(&self, value: T) {
        let mut state = self.inner.state();
        state.waiting = Some(value);
        if !state.running {
            let inner = Arc::clone(&self.inner);
            let started = thread::Builder::new()
                .name("disk".to_owned())
                .spawn(move || inner.write_all());
            match started {
                Ok(_) => state.running = true,
                // The next one finds it waiting.
                Err(error) => warn!(%error, "there can be no thread that writes to the disk"),
            }
        }
    }

    /// Writes something else in place of what waits, after what is being written.
    pub(super) fn instead<R>(&self, write: impl FnOnce() -> R) -> R {
        let _disk = self.inner.disk.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.state().waiting = None;
        write()
    }

    /// Waits until all is written, but not for ever.
    pub(super) fn finish(&self, patience: Duration) {
        let state = self.inner.state();
        let waited = self
            .inner
            .idle
            .wait_timeout_while(state, patience, |state| state.running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self) {
        loop {
            let _disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.state();
            let Some(value) = state.waiting.take() else {
                state.running = false;
                self.idle.notify_all();
                return;
            };
            drop(state);
            (self.write)(&value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_disk_that_stands_still_holds_nobody_up_and_gets_the_latest() {
        let (go, stands) = channel::<()>();
        let (written, seen) = channel();
        let stands = Mutex::new(stands);
        let later = Later::new(move |value: &u32| {
            let _ = stands.lock().expect("one thread").recv();
            let _ = written.send(*value);
        });
        let begun = Instant::now();
        (1..=1_000).for_each(|value| later.put(value));
        later.finish(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(go);
        later.finish(Duration::from_secs(20));
        let seen: Vec<u32> = seen.try_iter().collect();
        assert!(seen.last() == Some(&1_000) && seen.len() <= 3, "{seen:?}");
        later.put(7);
        later.finish(Duration::from_secs(20));
    }

    #[test]
    fn what_is_written_instead_is_not_overwritten_by_what_waited() {
        let kept = Arc::new(Mutex::new(0));
        let place = Arc::clone(&kept);
        let later = Later::new(move |value| *place.lock().expect("fine") = *value);
        for value in 0..200 {
            later.put(1);
            later.instead(|| *kept.lock().expect("fine") = value + 2);
            later.finish(Duration::from_secs(20));
            assert_eq!(*kept.lock().expect("fine"), value + 2);
        }
    }
}
