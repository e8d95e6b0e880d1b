//! What became of a request.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

/// The file into which it is written: a line each, with tabs between when it was asked and when it was over
/// (milliseconds since 1970), whose it was and how it ended.
pub(crate) struct Outcomes(Mutex<File>);

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How a reply that was read ended: `200` where it is whole, a status with its code, `cut`.
pub(crate) fn of_reply(status: u16, waits: bool, is_stream: bool, body: &[u8]) -> String {
    match status {
        200 if !is_stream || body.ends_with(b"data: [DONE]\n\n") => "200".to_owned(),
        // The last event of a stream that breaks off holds the code.
        200 => {
            let last = body.rsplit(|byte| *byte == b'\n').find(|line| line.starts_with(b"data: "));
            let code = last.and_then(|line| code(&line[b"data: ".len()..]));
            code.map_or_else(|| "cut".to_owned(), |code| format!("200 then {code}"))
        }
        // The SDKs read how long to wait.
        429 if !waits => "429 without a wait".to_owned(),
        _ => format!("{status} {}", code(body).unwrap_or_else(|| "without a code".to_owned())),
    }
}

fn code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body["error"]["code"].as_str()?.to_owned())
}

// === impl Outcomes ===

impl Outcomes {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(File::create(path)?)))
    }

    /// Writes one down that is over now.
    pub(crate) fn note(&self, begun: u64, user: &str, how: &str) {
        let line = format!("{begun}\t{}\t{user}\t{how}\n", now_ms());
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            eprintln!("an outcome is lost: {error}");
        }
    }
}
