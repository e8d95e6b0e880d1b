//! What the process has logged, so that tests can demand what must not stand there.

use parking_lot::Mutex;
use std::{
    io,
    sync::{Arc, OnceLock},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

static LOG: OnceLock<Log> = OnceLock::new();

/// The log of this process, at the level `debug` for our own crates.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

/// Starts to keep the log; again: the same one.
pub fn keep() -> Log {
    LOG.get_or_init(|| {
        let log = Log::default();
        let filter = EnvFilter::new("info,engine=debug,actors=debug,storage=debug,protocol=debug");
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let _ = tracing::subscriber::set_global_default(subscriber);
        log
    })
    .clone()
}

impl Log {
    /// What was logged so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
