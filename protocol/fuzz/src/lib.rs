//! What libFuzzer feeds (`make fuzz`), one function a target.

mod bodies;
// The file itself, not the crate around it: HTTP, TLS and databases need not be built for a fuzzer.
#[path = "../../../engine/src/http/router.rs"]
pub mod router;

pub use bodies::{key, ndjson, request, router as route, sse};
