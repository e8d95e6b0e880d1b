//! The harness: a real gateway on port 0, in front of the scripted Ollama on a real socket.
//!
//! A test starts a [`TestGateway`], asks it what a client could ask, and looks at what a client, an
//! operator or the upstream could see. When the harness is dropped it demands that the log holds no
//! key and no word of an upstream, whatever the test was about.

pub mod client;
pub mod gateway;
pub mod log;
pub mod patience;
pub mod process;

pub use client::{Kept, Open, Reply, get, post, raw, send};
pub use gateway::{Replica, Setup, TestGateway};
pub use process::Process;

/// Where a binary of the workspace was built.
///
/// # Panics
/// Where it was not.
#[must_use]
pub fn binary(name: &str) -> std::path::PathBuf {
    // The test binary stands in `deps`, beside which cargo puts the others.
    let this = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let directory = this.ancestors().nth(2).unwrap_or_else(|| panic!("{}", this.display()));
    let path = directory.join(name);
    assert!(path.exists(), "{} was not built: cargo build --bin {name}", path.display());
    path
}
