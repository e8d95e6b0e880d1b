use proptest::prelude::*;

use super::*;
use crate::{
    route::{Route, UpstreamKind},
    translate::{
        fields,
        request::{Outgoing, Request, Target},
    },
};

const ROUTES: [(Route, &str); 9] = [
    (Route::OpenAiChat, r#""messages":[{"role":"user","content":"a"}]"#),
    (Route::OpenAiCompletions, r#""prompt":"a""#),
    (Route::OpenAiEmbeddings, r#""input":"a""#),
    (Route::OpenAiResponses, r#""input":"a""#),
    (Route::AnthropicMessages, r#""max_tokens":5,"messages":[{"role":"user","content":"a"}]"#),
    (Route::OllamaChat, r#""messages":[{"role":"user","content":"a"}]"#),
    (Route::OllamaGenerate, r#""prompt":"a""#),
    (Route::OllamaEmbed, r#""input":"a""#),
    (Route::OllamaEmbeddings, r#""prompt":"a""#),
];

fn body(route: Route, rest: &str) -> String {
    let base = ROUTES.iter().find(|(one, _)| *one == route).unwrap().1;
    format!(r#"{{"model":"m",{base},{rest}}}"#)
}

/// Whether a body may be sent, and if not: why, and which field is meant.
fn kept(route: Route, rest: &str, levers: &Levers, has_budget: bool) -> Result<(), (Code, String)> {
    let body = body(route, rest);
    Request::read(route, body.as_bytes())
        .and_then(|request| request.keeps_to(levers, has_budget))
        .map_err(|error| (error.code, error.field.unwrap_or_default()))
}

fn refused(field: &str) -> Result<(), (Code, String)> {
    Err((Code::UnsupportedParameter, field.to_owned()))
}

/// What OpenAI's dialect is sent, and how many tokens the client asked for.
fn sent(route: Route, rest: &str, held_to: Option<u64>) -> (serde_json::Value, Option<u64>) {
    let body = body(route, rest);
    let request = Request::read(route, body.as_bytes()).unwrap();
    let (kind, levers) = (UpstreamKind::OpenAi, &Levers::OPEN);
    let target = Target { kind, model: None, tokens_max: held_to, levers };
    let Outgoing { body: made, .. } = request.write(&target).unwrap();
    let made = made.unwrap_or_else(|| body.clone().into_bytes());
    (serde_json::from_slice(&made).unwrap(), request.tokens_max)
}

#[test]
fn a_field_that_nobody_knows_is_refused_by_its_name_on_every_route() {
    let fields = [
        "n_predict",
        "n_cmpl",
        "priority",
        "prompt_embeds",
        "id_slot",
        "lora",
        "ignore_eos",
        "min_tokens",
        "chat_template",
        "extra_body",
        "vllm_xargs",
        "guided_grammar",
        "logits_processors",
        "allowed_token_ids",
        "structured_outputs",
        "mm_processor_kwargs",
        "kv_transfer_params",
        "n_indent",
        "grammar",
        "speculative.n_max",
        "thinking_forced_open",
        "n_probs",
        "prompt_logprobs",
        "use_beam_search",
        "models",
        "max_new_tokens",
        "unheard_of",
        "N_PREDICT",
    ];
    for (route, _) in ROUTES {
        for field in fields {
            let found = kept(route, &format!(r#""{field}":2"#), &Levers::default(), false);
            assert_eq!(found, refused(field), "{route}");
        }
        // However it is spelled, wherever it stands.
        let rest = r#""n_pred\u0069ct":50000,"user":"u""#;
        assert_eq!(kept(route, rest, &Levers::default(), false), refused("n_predict"), "{route}");
        let null = r#""n_predict":null"#;
        assert_eq!(kept(route, null, &Levers::default(), false), Ok(()), "{route}");
    }
}

proptest! {
    #[test]
    fn whatever_no_table_names_is_refused(name in "[a-z_]{1,12}") {
        for (route, _) in ROUTES {
            let is_named = ELSEWHERE.contains(&&*name) || fields::of(route).contains(&&*name) || fields::harmless(route).contains(&&*name);
            if !is_named && !OBJECTS_ELSEWHERE.contains(&&*name) {
                let found = kept(route, &format!(r#""{name}":1"#), &Levers::default(), false);
                prop_assert_eq!(found, refused(&name));
            }
        }
    }
}

#[test]
fn the_rendered_prompt_is_told_to_who_may_see_it() {
    let levers = Levers { trusted_show: false, ..Levers::OPEN };
    let rest = r#""_debug_render_only":true"#;
    let found = kept(Route::OllamaChat, rest, &levers, false);
    assert_eq!(found, refused("_debug_render_only"));
    assert_eq!(kept(Route::OllamaChat, rest, &Levers::OPEN, true), Ok(()));
}

#[test]
fn the_refusal_says_what_the_operator_may_do_and_repeats_no_strange_name() {
    let plain = not_listed("n_predict");
    assert!(plain.message.contains("`n_predict`"), "{}", plain.message);
    assert!(plain.message.contains("tenant set --options all"), "{}", plain.message);
    for name in ["<script>", "a\nb", &"x".repeat(65), "\u{202e}"] {
        let strange = not_listed(name);
        assert_eq!(strange.field, None);
        assert!(!strange.message.contains(name), "{}", strange.message);
    }
}

#[test]
fn an_option_that_nobody_knows_is_refused_like_a_field() {
    for (option, field) in [
        (r#""n_predict":1"#, "options.n_predict"),
        (r#""rope_frequency_base":1.0"#, "options.rope_frequency_base"),
        (r#""template":"x""#, "options.template"),
    ] {
        for route in [Route::OllamaChat, Route::OllamaGenerate, Route::OllamaEmbed] {
            let rest = format!(r#""options":{{"seed":1,"mirostat":1,{option}}}"#);
            assert_eq!(kept(route, &rest, &Levers::default(), false), refused(field));
            assert_eq!(kept(route, &rest, &Levers::OPEN, false), Ok(()));
        }
    }
}

#[test]
fn what_only_trusted_tenants_may_use_is_refused_though_it_is_read() {
    for (field, value) in
        [("template", r#""{{ .Prompt }}""#), ("_debug_render_only", "true"), ("steps", "100000")]
    {
        let rest = format!(r#""{field}":{value}"#);
        let found = kept(Route::OllamaGenerate, &rest, &Levers::default(), false);
        assert_eq!(found, refused(field));
        assert_eq!(kept(Route::OllamaGenerate, &rest, &Levers::OPEN, false), Ok(()));
    }
    for rest in [r#""template":"""#, r#""raw":true"#, r#""context":[1,2]"#, r#""suffix":"b""#] {
        assert_eq!(kept(Route::OllamaGenerate, rest, &Levers::default(), true), Ok(()), "{rest}");
    }
}

#[test]
fn an_object_has_no_members_that_nobody_knows() {
    for (rest, field) in [
        (r#""stream_options":{"include_usage":true,"x":1}"#, "stream_options.x"),
        (r#""stream_options":{"include_usage":[1]}"#, "stream_options.include_usage"),
        (r#""reasoning":{"effort":"low","max_tokens":9999}"#, "reasoning.max_tokens"),
        (r#""thinking":{"type":"enabled","x":{}}"#, "thinking.x"),
        (r#""chat_template_kwargs":{"messages":[]}"#, "chat_template_kwargs.messages"),
        (r#""chat_template_kwargs":{"tokenize":true}"#, "chat_template_kwargs.tokenize"),
        (r#""chat_template_kwargs":{"chat_template":"x"}"#, "chat_template_kwargs.chat_template"),
    ] {
        let rest = rest.replace(r#""include_usage":[1]"#, r#""include_obfuscation":[1]"#);
        let field = field.replace("options.include_usage", "options.include_obfuscation");
        let found = kept(Route::OpenAiChat, &rest, &Levers::default(), false);
        assert_eq!(found, refused(&field), "{rest}");
    }
    let rest = r#""chat_template_kwargs":{"enable_thinking":false},"reasoning":{"effort":"low"}"#;
    assert_eq!(kept(Route::OpenAiChat, rest, &Levers::default(), true), Ok(()));
    assert_eq!(kept(Route::OpenAiChat, rest, &Levers::OPEN, true), Ok(()));
}

#[test]
fn an_object_within_an_object_has_no_members_that_nobody_knows() {
    let (chat, responses, messages) =
        (Route::OpenAiChat, Route::OpenAiResponses, Route::AnthropicMessages);
    for (route, rest, field) in [
        (chat, r#""response_format":{"type":"json_schema","x":1}"#, "response_format.x"),
        (
            chat,
            r#""response_format":{"type":"json_schema","json_schema":{"schema":{},"x":1}}"#,
            "response_format.json_schema.x",
        ),
        (chat, r#""tool_choice":{"type":"function","x":[1]}"#, "tool_choice.x"),
        (chat, r#""tool_choice":{"function":{"name":"f","x":1}}"#, "tool_choice.function.x"),
        (chat, r#""tool_choice":{"function":{"name":{}}}"#, "tool_choice.function.name"),
        (responses, r#""text":{"x":1}"#, "text.x"),
        (responses, r#""text":{"format":{"type":"text","x":1}}"#, "text.format.x"),
        (responses, r#""reasoning":{"effort":"low","x":1}"#, "reasoning.x"),
        (responses, r#""tools":[{"type":"function","name":"f"},{"name":"g","x":1}]"#, "tools[1].x"),
        (messages, r#""output_config":{"effort":"low","x":{}}"#, "output_config.x"),
        (messages, r#""output_config":{"effort":["low"]}"#, "output_config.effort"),
        (messages, r#""output_config":{"format":{"schema":{},"x":1}}"#, "output_config.format.x"),
        (messages, r#""output_format":{"type":"json_schema","x":1}"#, "output_format.x"),
        (messages, r#""thinking":{"type":"enabled","x":1}"#, "thinking.x"),
        (messages, r#""tool_choice":{"type":"auto","x":1}"#, "tool_choice.x"),
        (messages, r#""tools":[{"name":"f","input_schema":{"y":1},"x":1}]"#, "tools[0].x"),
    ] {
        assert_eq!(kept(route, rest, &Levers::default(), false), refused(field), "{rest}");
        assert_eq!(kept(route, rest, &Levers::OPEN, false), Ok(()), "{rest}");
        let null = rest.replace(":1}", ":null}").replace(r#""x":[1]"#, r#""x":null"#);
        if null != rest {
            assert_eq!(kept(route, &null, &Levers::default(), false), Ok(()), "{null}");
        }
    }
}

#[test]
fn an_object_of_another_dialect_is_refused_where_nothing_passes() {
    for object in OBJECTS_ELSEWHERE {
        for (route, _) in ROUTES {
            let passes = matches!(route, Route::OpenAiChat | Route::OpenAiCompletions);
            let expected = match passes || fields::of(route).contains(&object) {
                true => Ok(()),
                false => refused(object),
            };
            let found = kept(route, &format!(r#""{object}":{{}}"#), &Levers::default(), false);
            assert_eq!(found, expected, "{route} {object}");
        }
    }
}

/// What clients send with every request must be written for both kinds of server.
fn is_answered(route: Route, rest: &str) {
    assert_eq!(kept(route, rest, &Levers::default(), true), Ok(()), "{rest}");
    let body = body(route, rest);
    let request = Request::read(route, body.as_bytes()).unwrap();
    for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
        let target = Target { kind, model: None, tokens_max: None, levers: &Levers::default() };
        assert!(request.write(&target).is_ok(), "{kind} {rest}");
    }
}

#[test]
fn what_coding_agents_always_send_is_answered() {
    is_answered(
        Route::AnthropicMessages,
        r#""stream":true,"metadata":{"user_id":"u"},"service_tier":"auto","speed":"standard",
        "system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h"}}],
        "thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"xhigh"},
        "context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},
        "diagnostics":{"previous_message_id":null},"cache_control":{"type":"ephemeral"},
        "tools":[{"type":"custom","name":"f","description":"d","input_schema":{"type":"object"},
            "defer_loading":true,"eager_input_streaming":true,"cache_control":{"type":"ephemeral"},
            "input_examples":[{"a":1}],"allowed_callers":["direct"],"strict":true}],
        "tool_choice":{"type":"auto","disable_parallel_tool_use":false}"#,
    );
    is_answered(
        Route::OpenAiResponses,
        r#""stream":true,"store":false,"include":["reasoning.encrypted_content"],
        "instructions":"i","prompt_cache_key":"k","prompt_cache_options":{"mode":"implicit"},
        "text":{"verbosity":"low"},"client_metadata":{"a":"b"},"parallel_tool_calls":false,
        "reasoning":{"effort":"medium","summary":"auto","context":"auto","mode":"standard"},
        "tool_choice":"auto","context_management":[{"type":"compaction","compact_threshold":9}],
        "stream_options":{"include_obfuscation":false},"truncation":"disabled","top_logprobs":0,
        "tools":[{"type":"function","name":"f","description":"d","strict":false,"async":false,
            "parameters":{"type":"object"},"output_schema":{"type":"object"},
            "defer_loading":false,"allowed_callers":["direct"]}]"#,
    );
}

#[test]
fn what_is_checked_stands_there_once() {
    for (rest, field) in [
        (
            r#""chat_template_kwargs":{"enable_thinking":true},"chat_template_kwargs":{"x":1}"#,
            "chat_template_kwargs",
        ),
        (r#""chat_template_kwargs":null,"chat_template_kwargs":{"x":1}"#, "chat_template_kwargs"),
        (r#""thinking":null,"thinking":{"x":1}"#, "thinking"),
        (r#""options":{},"options":{"num_predict":50007}"#, "options"),
        (r#""max_output_tokens":5,"max_output_tokens":50007"#, "max_output_tokens"),
        (r#""n_predict":null,"n_predict":null"#, "n_predict"),
    ] {
        let found = kept(Route::OpenAiChat, rest, &Levers::default(), false);
        assert_eq!(found, Err((Code::AmbiguousField, field.to_owned())), "{rest}");
    }
}

#[test]
fn what_real_clients_send_passes() {
    // By openai-python, LangChain, Open WebUI, Continue, Cline, AI SDK, LiteLLM, vLLM's and llama.cpp's users.
    let chat = r#""stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":5,
        "temperature":0.1,"top_p":0.9,"top_k":40,"min_p":0.1,"seed":1,"stop":["a"],"n":1,
        "presence_penalty":0,"frequency_penalty":0,"repetition_penalty":1,"repeat_penalty":1.1,
        "logit_bias":{"1":2},"user":"u","metadata":{"a":"b"},"store":false,"service_tier":"auto",
        "parallel_tool_calls":true,"prompt_cache_key":"k","safety_identifier":"s","verbosity":"low",
        "reasoning":{"effort":"low","summary":"auto"},"reasoning_effort":"low","logprobs":true,
        "top_logprobs":2,"response_format":{"type":"text"},"modalities":["text"],
        "tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto",
        "stop_token_ids":[1],"skip_special_tokens":true,"cache_prompt":true,"mirostat":0,
        "dry_multiplier":0.8,"timings_per_token":true,"reasoning_format":"auto","n_keep":0,
        "chat_template_kwargs":{"enable_thinking":false},"thinking":{"type":"disabled"}"#;
    let completion = r#""max_tokens":5,"suffix":"b","echo":false,"best_of":1,"logprobs":0,"top_k":1,
        "user":"u","stream":true,"stream_options":{"include_usage":true}"#;
    let response = r#""store":true,"include":["reasoning.encrypted_content"],"truncation":"auto",
        "service_tier":"auto","prompt_cache_key":"k","parallel_tool_calls":true,"tool_choice":"auto",
        "reasoning":{"effort":"low","summary":"auto"},"text":{"verbosity":"low"},"metadata":{},
        "client_metadata":{},"max_output_tokens":5,"instructions":"i","stream":true"#;
    let message = r#""metadata":{"user_id":"u"},"service_tier":"auto","context_management":{"edits":[]},
        "output_config":{"effort":"high"},"thinking":{"type":"enabled","budget_tokens":2000},
        "stop_sequences":["a"],"top_k":1,"system":[{"type":"text","text":"a"}],"stream":true"#;
    let native = r#""options":{"num_ctx":4096,"num_predict":5,"temperature":0.1,"top_k":1,"top_p":1,
        "min_p":0,"typical_p":1,"tfs_z":1,"repeat_last_n":1,"repeat_penalty":1.1,"seed":1,"num_keep":1,
        "mirostat":1,"mirostat_tau":1,"mirostat_eta":1,"penalize_newline":true,"stop":["a"]},
        "stream":true,"keep_alive":"5m","format":"json","think":false,"logprobs":false,"truncate":true"#;
    let generate =
        format!(r#"{native},"raw":true,"suffix":"b","system":"s","context":[1],"images":[]"#);
    for (route, rest) in [
        (Route::OpenAiChat, chat),
        (Route::OpenAiCompletions, completion),
        (Route::OpenAiEmbeddings, r#""encoding_format":"base64","dimensions":3,"user":"u""#),
        (Route::OpenAiResponses, response),
        (Route::AnthropicMessages, message),
        (Route::OllamaChat, native),
        (Route::OllamaGenerate, &generate),
        (Route::OllamaEmbed, r#""truncate":true,"options":{},"keep_alive":"5m","dimensions":3"#),
    ] {
        for levers in [Levers::default(), Levers { options: LoadOptions::All, ..Levers::default() }]
        {
            assert_eq!(kept(route, rest, &levers, true), Ok(()), "{route}");
        }
    }
}

#[test]
fn every_spelling_of_the_most_says_what_was_reserved() {
    let (chat, completion) = (Route::OpenAiChat, Route::OpenAiCompletions);
    for (route, rest, held_to, most) in [
        (chat, r#""max_tokens":2000,"n_predict":50007"#, None, 50_007),
        (chat, r#""max_tokens":2000,"n_predict":-1"#, None, 2_000),
        (chat, r#""n_predict":50007"#, None, 50_007),
        (chat, r#""n_predict":-1"#, Some(1_024), 1_024),
        (chat, r#""max_completion_tokens":9,"max_new_tokens":5,"num_predict":7"#, None, 9),
        (chat, r#""max_tokens":5,"max_length":900,"max_output_tokens":0"#, None, 900),
        (completion, r#""max_tokens":2000,"n_predict":50007"#, None, 50_007),
        (completion, r#""n_predict":0"#, Some(7), 7),
    ] {
        let (sent, said) = sent(route, rest, held_to);
        assert_eq!(said.or(held_to), Some(most), "{rest}");
        for name in LIMITS.iter().chain(&["max_tokens", "max_completion_tokens"]) {
            let value = sent.get(name);
            assert!(value.is_none_or(|value| value == most), "{rest}: {sent}");
        }
        assert_eq!(sent["max_tokens"], most, "{rest}: {sent}");
    }
    let wrong = body(chat, r#""n_predict":"50007""#);
    let error = Request::read(chat, wrong.as_bytes()).map(drop).unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (Code::InvalidRequest, Some("n_predict")));
}

#[test]
fn what_is_ollamas_is_passed_over_where_a_server_is_openais() {
    let rest = r#""options":{"num_predict":50007},"keep_alive":-1,"max_output_tokens":5"#;
    for route in [Route::OpenAiChat, Route::OpenAiCompletions, Route::OpenAiEmbeddings] {
        assert_eq!(kept(route, rest, &Levers::default(), true), Ok(()));
        let body = body(route, rest);
        let request = Request::read(route, body.as_bytes()).unwrap();
        for (levers, is_sent) in [(Levers::default(), false), (Levers::OPEN, true)] {
            let kind = UpstreamKind::OpenAi;
            let target = Target { kind, model: None, tokens_max: None, levers: &levers };
            let made = request.write(&target).unwrap().body;
            let made = made.map_or_else(|| body.clone(), |made| String::from_utf8(made).unwrap());
            assert_eq!(made.contains("50007"), is_sent, "{route}: {made}");
        }
    }
}

#[test]
fn a_trusted_tenant_neither_multiplies_nor_asks_for_another_model() {
    for (rest, expected) in [
        (r#""n_cmpl":2"#, refused("n_cmpl")),
        (r#""n_cmpl":1"#, Ok(())),
        (r#""num_return_sequences":4"#, refused("num_return_sequences")),
        (r#""best_of":2"#, refused("best_of")),
        (r#""models":["other"]"#, refused("models")),
        (r#""fallbacks":["other"]"#, refused("fallbacks")),
        (r#""n_predict":1,"n_predict":50000"#, Err((Code::AmbiguousField, "n_predict".to_owned()))),
        (r#""unheard_of":1,"unheard_of":2,"priority":-1"#, Ok(())),
    ] {
        assert_eq!(kept(Route::OpenAiChat, rest, &Levers::OPEN, false), expected, "{rest}");
    }
}

#[test]
fn where_a_budget_holds_nothing_makes_a_prompt_longer_than_it_is_counted() {
    for (route, rest, field) in [
        (Route::OllamaGenerate, r#""template":"{{ range }}""#, "template"),
        (Route::OpenAiChat, r#""chat_template":"{{ x }}""#, "chat_template"),
        (Route::OpenAiChat, r#""chat_template_kwargs":{"x":1}"#, "chat_template_kwargs"),
        (Route::OpenAiChat, r#""mm_processor_kwargs":{"max_pixels":9}"#, "mm_processor_kwargs"),
        (
            Route::OpenAiChat,
            r#""web_search_options":{"search_context_size":"low"}"#,
            "web_search_options",
        ),
        (Route::OpenAiCompletions, r#""prompt_embeds":"QUJD""#, "prompt_embeds"),
    ] {
        assert_eq!(kept(route, rest, &Levers::OPEN, true), refused(field));
        assert_eq!(kept(route, rest, &Levers::OPEN, false), Ok(()), "{rest}");
    }
}

#[test]
fn a_part_that_only_the_model_server_can_count_is_refused() {
    let chat = |part: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#)
    };
    for (part, at) in [
        (r#"{"type":"image_url","image_url":null,"uuid":"x"}"#, "uuid"),
        (r#"{"type":"file","file":{"file_id":"x"}}"#, "file.file_id"),
        (r#"{"type":"image_embeds","image_embeds":"QUJD"}"#, "image_embeds"),
    ] {
        let body = chat(part);
        let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
        for (levers, has_budget) in [(Levers::default(), false), (Levers::OPEN, true)] {
            let error = request.keeps_to(&levers, has_budget).unwrap_err();
            assert_eq!(error.field, Some(format!("messages[0].content[0].{at}")));
        }
        assert_eq!(request.keeps_to(&Levers::OPEN, false), Ok(()));
    }
    let body = chat(
        r#"{"type":"file","file":{"file_data":"data:x","filename":"a"}},{"type":"text","text":"a","cache_control":{}}"#,
    );
    let request = Request::read(Route::OpenAiChat, body.as_bytes()).unwrap();
    assert_eq!(request.keeps_to(&Levers::default(), true), Ok(()));
}

#[test]
fn a_body_of_nothing_but_strange_fields_is_refused() {
    let fields: Vec<_> =
        (0..crate::caps::STRANGERS_MAX + 1).map(|at| format!(r#""x{at}":1"#)).collect();
    let body = body(Route::OpenAiChat, &fields.join(","));
    let error = Request::read(Route::OpenAiChat, body.as_bytes()).map(drop).unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
}
