//! A thread with a runtime of its own, beside the daemon's loop.

use std::io;
use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The thread; it ends when this is dropped, and what runs on it with it.
pub(crate) struct Aside {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Aside {
    /// Starts it with nothing to do.
    ///
    /// # Errors
    /// If there can be no thread, or no runtime.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = sync_channel(1);
        // The runtime is made there: without a thread it would be dropped here, and none may be dropped in another's.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            // Who asked waits for it.
            let _ = tell.send(Ok(runtime.handle().clone()));
            // Sent or dropped: both mean that it is over.
            let _ = runtime.block_on(stopped);
            // A look-up of a name may hang in a thread of its own.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            runtime: told.recv().map_err(io::Error::other)??,
            _stop: stop,
        })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}
