//! What real servers say when they refuse: `[[refuse context]]` and the like, by what they speak.

use crate::failure::MARKER;

/// Why the script has a request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The prompt is longer than the context.
    Context,
    /// The prompt and the tokens that are asked for are, together.
    Room,
    /// The model calls no tools.
    Tools,
    /// The model sees nothing.
    Images,
    /// Too many wait already.
    Busy,
    /// Asked too often.
    Limited,
    /// The model is being read from disk.
    Loading,
    /// There is too little memory.
    Memory,
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "context" => Self::Context,
            "room" => Self::Room,
            "tools" => Self::Tools,
            "images" => Self::Images,
            "busy" => Self::Busy,
            "limited" => Self::Limited,
            "loading" => Self::Loading,
            "memory" => Self::Memory,
            _ => return None,
        })
    }

    /// The status, and the sentence with the marker of the server's own words: Ollama's, or those of vLLM and
    /// llama.cpp.
    pub(crate) fn says(self, is_openai: bool) -> (u16, String) {
        let (status, text) = match (self, is_openai) {
            (Self::Context, false) => (
                500,
                "llama-server chat error: map[code:400 message:request (9000 tokens) exceeds the available context \
                 size (8192 tokens), try increasing it n_ctx:8192 n_prompt_tokens:9000 \
                 type:exceed_context_size_error]",
            ),
            (Self::Context, true) => (
                400,
                "This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens.",
            ),
            (Self::Room, _) => (
                400,
                "This model's maximum context length is 200000 tokens. However, you requested 244000 tokens (180000 \
                 in the messages, 64000 in the completion).",
            ),
            (Self::Tools, false) => {
                (400, "registry.ollama.ai/library/x:latest does not support tools")
            }
            (Self::Tools, true) => (
                400,
                "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set",
            ),
            (Self::Images, false) => (500, "this model is missing data required for image input"),
            (Self::Images, true) => (400, "x is not a multimodal model"),
            (Self::Busy, false) => {
                (503, "server busy, please try again.  maximum pending requests exceeded")
            }
            (Self::Busy, true) => {
                (503, "The engine is currently overloaded, please try again later")
            }
            (Self::Limited, _) => (429, "Rate limit reached"),
            (Self::Loading, false) => (500, "llm server loading model"),
            (Self::Loading, true) => (503, "Loading model"),
            (Self::Memory, false) => {
                (500, "model requires more system memory (8.2 GiB) than is available (3.1 GiB)")
            }
            (Self::Memory, true) => (500, "CUDA out of memory. Tried to allocate 2.00 GiB"),
        };
        (status, format!("{text} {MARKER}"))
    }
}
