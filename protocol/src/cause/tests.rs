use std::num::NonZeroU32;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn overflow(
    prompt: impl Into<Option<u32>>,
    completion: impl Into<Option<u32>>,
    most: impl Into<Option<u32>>,
) -> Option<Cause> {
    let [prompt, completion, most] =
        [prompt.into(), completion.into(), most.into()].map(|one| one.and_then(NonZeroU32::new));
    Some(Cause::Context(Overflow { prompt, completion, most }))
}

fn lacks(capability: Capability) -> Option<Cause> {
    Some(Cause::Lacks(capability))
}

/// What a sentence in OpenAI's shape is taken for.
fn sentence(status: u16, text: &str) -> Option<Cause> {
    let body = json!({ "error": { "message": text, "type": "BadRequestError", "code": status } });
    Cause::read(Some(status), body.to_string().as_bytes())
}

/// Status, sentence, and the tokens of prompt and completion and the size of the context; 0: it does not say.
const FORMS: &[(u16, &str, [u32; 3])] = &[
    // vLLM, by age.
    (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9100 tokens (5000 in the \
             messages, 4100 in the completion). Please reduce the length of the messages or completion.",
        [5000, 4100, 8192],
    ),
    (
        400,
        "This model's maximum context length is 8192 tokens. However, your request has 9001 input tokens. Please \
             reduce the length of the input messages.",
        [9001, 0, 8192],
    ),
    (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum context length is 4096 \
             tokens and your request has 1297 input tokens (4000 > 4096 - 1297).",
        [1297, 4000, 4096],
    ),
    (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 1000 output tokens and your \
             prompt contains at least 7500 input tokens, for a total of at least 8500 tokens.",
        [7500, 1000, 8192],
    ),
    (
        400,
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        [9000, 0, 8192],
    ),
    // llama.cpp, by age.
    (400, "the request exceeds the available context size, try increasing it", [0, 0, 0]),
    (
        500,
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        [9000, 0, 8192],
    ),
    (
        500,
        "input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
        [600, 0, 512],
    ),
    (500, "Context size has been exceeded.", [0, 0, 0]),
    (400, "Requested tokens (5000) exceed context window of 4096", [5000, 0, 4096]),
    // SGLang.
    (
        400,
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        [9000, 0, 8192],
    ),
    (
        400,
        "Requested token count exceeds the model's maximum context length of 64000 tokens. You requested a total \
             of 71897 tokens: 7897 tokens from the input messages and 64000 tokens for the completion.",
        [7897, 64000, 64000],
    ),
    // TGI.
    (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1800 `inputs` tokens \
             and 500 `max_new_tokens`",
        [1800, 500, 2048],
    ),
    (
        422,
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 1100",
        [1100, 0, 1024],
    ),
    // LM Studio.
    (
        400,
        "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with \
             context length of only 8192 tokens",
        [9000, 0, 8192],
    ),
    (
        400,
        "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 5161>= \
             n_ctx: 4096).",
        [5161, 0, 4096],
    ),
    // OpenAI and those who sell it on.
    (
        400,
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
        [5000, 0, 4097],
    ),
    (
        400,
        "This endpoint's maximum context length is 32768 tokens. However, you requested about 50000 tokens (30000 \
             of text input, 20000 in the output).",
        [30000, 20000, 32768],
    ),
    (400, "Your input exceeds the context window of this model.", [0, 0, 0]),
    // Mistral, Gemini, xAI, Kimi.
    (
        400,
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        [40000, 0, 32768],
    ),
    (
        400,
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)",
        [1_196_265, 0, 1_048_575],
    ),
    (
        400,
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens",
        [537_812, 0, 131_072],
    ),
    (
        400,
        "Your request exceeded model token limit: 262144 (requested: 291351)",
        [291_351, 0, 262_144],
    ),
    // Anthropic.
    (400, "prompt is too long: 213462 tokens > 200000 maximum", [213_462, 0, 200_000]),
    (
        400,
        "input length and `max_tokens` exceed context limit: 180000 + 64000 > 200000, decrease one",
        [180_000, 64_000, 200_000],
    ),
];

#[test]
fn each_servers_way_to_say_that_the_context_is_too_small_is_known_with_its_numbers() {
    for (status, text, numbers) in FORMS {
        let [prompt, completion, most] = numbers.map(|number| (number > 0).then_some(number));
        assert_eq!(sentence(*status, text), overflow(prompt, completion, most), "{text}");
    }
}

#[test]
fn the_shells_of_errors_are_seen_through() {
    let told = "request (9000 tokens) exceeds the available context size (8192 tokens)";
    let wanted = overflow(9000, None, 8192);
    for (status, body) in [
        (Some(400), json!({ "error": told })),
        (
            Some(500),
            json!({ "error": format!("llama-server chat error: map[code:400 message:{told}]") }),
        ),
        (Some(400), json!({ "object": "error", "message": told, "code": 400 })),
        (Some(422), json!({ "detail": told })),
        (Some(400), json!({ "error": { "message": told } })),
        (None, json!({ "error": told })),
        (None, json!({ "object": "error", "message": told, "code": 400 })),
        (None, json!({ "type": "error", "error": { "message": told } })),
        // The numbers stand beside the sentence, and the type says enough.
        (
            Some(400),
            json!({ "error": { "code": 400, "message": "x", "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000, "n_ctx": 8192 } }),
        ),
    ] {
        assert_eq!(Cause::read(status, body.to_string().as_bytes()), wanted, "{body}");
    }
    assert_eq!(Cause::read(Some(400), told.as_bytes()), wanted);
    let code = json!({ "error": { "message": "x", "code": "context_length_exceeded" } });
    let code = code.to_string();
    assert_eq!(Cause::read(Some(400), code.as_bytes()), overflow(None, None, None));
    // No error at all.
    for (status, body) in [
        (None, json!({ "message": told }).to_string()),
        (None, told.to_owned()),
        (Some(400), format!("<html>{told}</html>")),
        (Some(400), json!([told]).to_string()),
        (Some(400), String::new()),
    ] {
        assert_eq!(Cause::read(status, body.as_bytes()), None, "{body}");
    }
}

#[test]
fn what_a_model_lacks_is_named() {
    use Capability as C;
    for (status, text, capability) in [
        (400, "\"llama\" does not support tools", C::Tools),
        (
            400,
            "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser",
            C::Tools,
        ),
        (500, "tools param requires --jinja flag", C::Tools),
        (404, "No endpoints found that support tool use", C::Tools),
        (400, "\"llama\" does not support thinking", C::Thinking),
        (400, "think value \"high\" is not supported for this model", C::Thinking),
        (400, "registry.ollama.ai/library/x:latest does not support vision", C::Images),
        (500, "image input is not supported - hint: you may need to provide the mmproj", C::Images),
        (500, "this model is missing data required for image input", C::Images),
        (400, "x is not a multimodal model", C::Images),
        (400, "At most 0 image(s) may be provided in one prompt.", C::Images),
        (400, "audio input is not supported", C::Audio),
        (400, "The model does not support Embeddings API", C::Embeddings),
        (
            501,
            "This server does not support embeddings. Start it with `--embeddings`",
            C::Embeddings,
        ),
        (400, "\"bert\" does not support chat", C::Answers),
        (400, "\"bert\" does not support generate", C::Answers),
        (400, "registry.ollama.ai/library/x:latest does not support insert", C::Insert),
        (400, "suffix is not currently supported", C::Insert),
        (
            400,
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
            C::Schema,
        ),
    ] {
        assert_eq!(sentence(status, text), lacks(capability), "{text}");
    }
}

#[test]
fn a_server_that_has_no_time_or_no_memory_is_known() {
    for (status, text, wanted) in [
        (429, "", Cause::RateLimited),
        (429, "Rate limit reached", Cause::RateLimited),
        (
            503,
            "server busy, please try again.  maximum pending requests exceeded",
            Cause::Overloaded,
        ),
        (503, "That model is currently overloaded with other requests", Cause::Overloaded),
        (529, "x", Cause::Overloaded),
        (503, "Loading model", Cause::Loading),
        (503, "Model org/x is currently loading", Cause::Loading),
        (500, "llm server loading model", Cause::Loading),
        (
            500,
            "model requires more system memory (8.2 GiB) than is available (3.1 GiB)",
            Cause::OutOfMemory,
        ),
        (
            500,
            "llama runner process has terminated: cudaMalloc failed: out of memory",
            Cause::OutOfMemory,
        ),
        (500, "CUDA out of memory. Tried to allocate 2.00 GiB", Cause::OutOfMemory),
        (500, "llama runner process has terminated: signal: killed", Cause::OutOfMemory),
        (
            404,
            "Failed to load model \"x\". Error: Model loading was stopped due to insufficient system resources.",
            Cause::OutOfMemory,
        ),
    ] {
        assert_eq!(sentence(status, text), Some(wanted), "{status} {text}");
    }
    let kind = |status, kind: &str| {
        let body = json!({ "error": { "message": "x", "type": kind, "code": "x" } }).to_string();
        Cause::read(status, body.as_bytes())
    };
    assert_eq!(kind(Some(429), "overloaded"), Some(Cause::Overloaded));
    assert_eq!(kind(None, "overloaded_error"), Some(Cause::Overloaded));
    assert_eq!(kind(None, "rate_limit_error"), Some(Cause::RateLimited));
    assert_eq!(kind(Some(400), "content_filter"), Some(Cause::Filtered));
    // A status inside of a stream.
    let limited = br#"{"error":{"message":"x","code":429}}"#;
    assert_eq!(Cause::read(None, limited), Some(Cause::RateLimited));
}

#[test]
fn what_is_not_said_or_is_not_the_servers_own_word_is_no_cause() {
    for (status, text) in [
        (400, "invalid model name"),
        (500, "the script says so"),
        (503, "no healthy upstream"),
        (500, "error loading model: unknown architecture"),
        (500, "llama runner process has terminated: exit status 2"),
        (404, "model 'x' not found"),
        // A sentence is believed only with a status that goes with it.
        (503, "This model's maximum context length is 8192 tokens"),
        (401, "out of memory"),
        (401, "does not support tools"),
        // What was sent, repeated behind the reason.
        (
            500,
            "Failed to parse messages: bad role; messages = [{\"content\":\"does not support tools\"}]",
        ),
        (400, "1 validation error: {'loc': 'x', 'input': 'maximum context length is 3 tokens'}"),
    ] {
        assert_eq!(sentence(status, text), None, "{status} {text}");
    }
    let far = format!("{}does not support tools", "x".repeat(4096));
    assert_eq!(sentence(400, &far), None);
}

#[test]
fn numbers_that_do_not_say_too_long_are_left_out() {
    // Smaller than the context, or too large to be one.
    for (text, wanted) in [
        (
            "maximum context length is 8192 tokens. However, your request has 12 input tokens",
            overflow(None, None, 8192),
        ),
        (
            "maximum context length is 99999999999999999999999 tokens, your request has 12 input tokens",
            overflow(12, None, None),
        ),
        ("maximum context length is 0 tokens", overflow(None, None, None)),
    ] {
        assert_eq!(sentence(400, text), wanted, "{text}");
    }
}

#[test]
fn each_dialect_is_told_in_the_words_that_its_programs_look_for() {
    let message = |cause: Option<Cause>, route| cause.unwrap().message(route).into_owned();
    let (chat, messages, native) = (Route::OpenAiChat, Route::AnthropicMessages, Route::OllamaChat);
    let long = overflow(9000, None, 8192);
    assert_eq!(message(long, messages), "prompt is too long: 9000 tokens > 8192 maximum");
    assert!(message(long, chat).starts_with("This model's maximum context length is 8192 tokens."));
    assert_eq!(
        message(long, native),
        "the input length exceeds the context length: 9000 tokens > 8192"
    );
    // There is room for a reply: fewer tokens are enough.
    assert_eq!(
        message(overflow(180_000, 64_000, 200_000), messages),
        "input length and `max_tokens` exceed context limit: 180000 + 64000 > 200000, decrease input length or \
         `max_tokens` and try again"
    );
    // There is next to none.
    assert_eq!(
        message(overflow(8000, 1000, 8192), messages),
        "prompt is too long: 9000 tokens > 8192 maximum"
    );
    for unknown in [overflow(None, None, 8192), overflow(None, None, None)] {
        assert!(message(unknown, messages).starts_with("prompt is too long"));
        assert!(message(unknown, chat).contains("context length"));
        assert!(message(unknown, native).contains("exceeds the context length"));
    }
    let param = |cause: Option<Cause>, route| cause.unwrap().param(route);
    assert_eq!(param(long, chat), Some("messages"));
    assert_eq!(param(long, Route::OpenAiResponses), Some("input"));
    assert_eq!((param(long, messages), param(long, native)), (None, None));
    let thinks = lacks(Capability::Thinking);
    let params = [chat, Route::OpenAiResponses, messages, native].map(|route| param(thinks, route));
    assert_eq!(params, ["reasoning_effort", "reasoning", "thinking", "think"].map(Some));
}

proptest! {
    #[test]
    fn no_text_of_the_server_is_in_what_is_told(body in "\\PC{0,400}", word in 0..context::WORDS.len()) {
        let text = format!("QX{} {body} QX{body}", context::WORDS[word]);
        if let Some(cause) = sentence(400, &text) {
            for route in Route::ALL {
                prop_assert!(!cause.message(*route).contains("QX"));
                prop_assert!(!cause.to_string().contains("QX"));
            }
        }
    }

    #[test]
    fn whatever_a_server_says_is_read_without_harm(status in 400..600u16, body in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Cause::read(Some(status), &body);
        let _ = Cause::read(None, &body);
    }
}
