//! Waiting for what must come, without depending on how soon.

use std::{future::Future, time::Duration};

/// How long is waited for what must come: far longer than it takes, so that only a fault reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is there.
///
/// # Panics
/// When it does not come within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits for a future that must end.
///
/// # Panics
/// When it does not end within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
