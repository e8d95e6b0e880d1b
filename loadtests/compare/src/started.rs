//! From start to ready, and how large the program is.

use std::{path::Path, time::Duration};

use rig::out::note;
use serde::Serialize;

use crate::{
    servers::{
        Place,
        gateway::{self, Build, Databases},
    },
    timing::median,
};

/// How a gateway starts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Started {
    pub(crate) server: String,
    /// Until it is ready with a database that it has to make first, in milliseconds.
    pub(crate) first_ms: f64,
    /// Until it is ready with one that is there.
    pub(crate) again_ms: f64,
    /// The program without symbols.
    pub(crate) binary_mib: f64,
}

/// Starts a build several times.
pub(crate) async fn measure(build: &Build, place: &Place, times: usize) -> Result<Started, String> {
    note(&format!("  start: {}", build.name));
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let databases = Databases::sqlite(place)?;
        first.push(ms(gateway::time_to_ready(build, place, &databases).await?));
        again.push(ms(gateway::time_to_ready(build, place, &databases).await?));
    }
    Ok(Started {
        server: build.name.clone(),
        first_ms: median(first),
        again_ms: median(again),
        binary_mib: stripped(&build.path, &place.directory).await?,
    })
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// The size of a program without symbols; with them where nothing can strip it.
async fn stripped(path: &Path, directory: &Path) -> Result<f64, String> {
    let target = directory.join("stripped");
    let strip = tokio::process::Command::new("strip").arg("-o").arg(&target).arg(path).status();
    let is_done = strip.await.is_ok_and(|status| status.success());
    let file = if is_done { target.as_path() } else { path };
    let size =
        std::fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    let _ = std::fs::remove_file(&target);
    Ok(size as f64 / 1024.0 / 1024.0)
}
