//! Requests that ask for nothing: Ollama takes them as orders to load or to unload the model. Where the
//! model's server has nothing to load, the gateway answers them as Ollama would.

use jiff::Timestamp;
use serde_json::json;

use crate::route::Route;

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The model is to be loaded.
    Load,
    /// It is to be unloaded.
    Unload,
}

// === impl Order ===

impl Order {
    /// The answer that it is done, as that route gives it.
    #[must_use]
    pub fn done(self, route: Route, model: &str, at: Timestamp) -> String {
        let mut reply = json!({
            "model": model,
            "created_at": at.to_string(),
            "done": true,
            "done_reason": match self {
                Self::Load => "load",
                Self::Unload => "unload",
            },
        });
        if route == Route::OllamaChat {
            reply["message"] = json!({ "role": "assistant", "content": "" });
        } else {
            reply["response"] = "".into();
        }
        reply.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_ollamas() {
        let at = Timestamp::UNIX_EPOCH;
        let chat = r#"{"model":"m","created_at":"1970-01-01T00:00:00Z","done":true,"done_reason":"load","message":{"role":"assistant","content":""}}"#;
        assert_eq!(Order::Load.done(Route::OllamaChat, "m", at), chat);
        let generate = r#"{"model":"m","created_at":"1970-01-01T00:00:00Z","done":true,"done_reason":"unload","response":""}"#;
        assert_eq!(Order::Unload.done(Route::OllamaGenerate, "m", at), generate);
    }
}
