use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::ollama::chat::{Function, Image};

fn said(role: &'static str, content: &'static str) -> Message<'static> {
    Message::text(role, content)
}

fn thought(thinking: &'static str) -> Message<'static> {
    Message { thinking: Some(thinking.into()), ..said("assistant", "") }
}

fn calls(ids: &[&'static str]) -> Message<'static> {
    let call = |(index, id): (usize, &&'static str)| ToolCall {
        id: (!id.is_empty()).then_some(Cow::Borrowed(*id)),
        function: Function {
            index,
            name: format!("f{index}").into(),
            arguments: RawValue::from_string("{}".to_owned()).unwrap(),
        },
    };
    let tool_calls = ids.iter().enumerate().map(call).collect();
    Message { tool_calls, ..said("assistant", "") }
}

fn result(id: &'static str, content: &'static str) -> Message<'static> {
    let tool_call_id = (!id.is_empty()).then_some(Cow::Borrowed(id));
    Message { tool_call_id, ..said("tool", content) }
}

/// Role and content of each message, with the ids of its calls or of its call.
fn settled_as(messages: Vec<Message<'static>>, kind: UpstreamKind) -> Vec<String> {
    let line = |message: &Message<'_>| {
        let ids = message.tool_calls.iter().map(|call| call.id.as_deref().unwrap_or("-"));
        let ids = ids.chain(message.tool_call_id.as_deref()).collect::<Vec<_>>().join(",");
        let thinking = message.thinking.as_deref().map(|text| format!(" ({text})"));
        let thinking = thinking.unwrap_or_default();
        format!("{} {} {ids}{thinking}", message.role, message.content)
    };
    settled(messages, kind).iter().map(line).collect()
}

#[test]
fn results_follow_their_calls_whatever_stood_between() {
    for kind in [UpstreamKind::Ollama, UpstreamKind::OpenAi] {
        let messages = vec![
            said("user", "a"),
            calls(&["x", "y"]),
            said("assistant", "words"),
            thought("thought"),
            said("user", "wait"),
            result("y", "2"),
            said("user", "well?"),
            result("x", "1"),
            said("assistant", "b"),
            calls(&["x"]),
            result("x", "3"),
        ];
        assert_eq!(
            settled_as(messages, kind),
            [
                "user a ",
                "assistant words x,y (thought)",
                "tool 2 y",
                "tool 1 x",
                "user wait ",
                "user well? ",
                "assistant b x",
                "tool 3 x",
            ],
            "{kind}"
        );
    }
}

#[test]
fn a_call_made_after_a_result_is_another_turn() {
    let messages = vec![
        calls(&["x", "y"]),
        result("x", "1"),
        calls(&["z"]),
        result("y", "2"),
        result("z", "3"),
    ];
    assert_eq!(
        settled_as(messages, UpstreamKind::OpenAi),
        ["assistant  x,y", "tool 1 x", "tool 2 y", "assistant  z", "tool 3 z"]
    );
}

#[test]
fn what_has_lost_its_other_half_is_told_where_it_would_be_refused() {
    let messages =
        || vec![result("gone", "1"), calls(&["x", "y"]), result("y", "2"), said("user", "a")];
    assert_eq!(
        settled_as(messages(), UpstreamKind::OpenAi),
        [
            "user [The result of a call of the tool that is no longer here:]\n1 ",
            "assistant  x,y",
            "tool 2 y",
            "tool [There is no result of this call.] x",
            "user a "
        ]
    );
    assert_eq!(
        settled_as(messages(), UpstreamKind::Ollama),
        ["tool 1 gone", "assistant  x,y", "tool 2 y", "user a "]
    );
    // A second result of one call.
    let twice = vec![calls(&["x"]), result("x", "1"), result("x", "2")];
    let roles: Vec<_> = settled(twice, UpstreamKind::OpenAi)
        .into_iter()
        .map(|message| message.role.into_owned())
        .collect();
    assert_eq!(roles, ["assistant", "tool", "user"]);
}

#[test]
fn calls_without_ids_get_some_and_find_their_results() {
    let named = |name: &'static str, content| Message {
        tool_name: Some(name.into()),
        ..result("", content)
    };
    let messages = vec![
        calls(&["", "", "call_1"]),
        named("f1", "2"),
        result("call_1", "3"),
        result("", "1"),
        calls(&[""]),
        named("other", "4"),
        result("made_up", "5"),
    ];
    assert_eq!(
        settled_as(messages, UpstreamKind::OpenAi),
        [
            "assistant  call_2,call_3,call_1",
            "tool 2 call_3",
            "tool 3 call_1",
            "tool 1 call_2",
            "assistant  call_4",
            "tool 4 call_4",
            "user [The result of a call of the tool that is no longer here:]\n5 ",
        ]
    );
}

#[test]
fn a_turn_with_nothing_in_it_is_left_out_and_a_thought_goes_on() {
    let messages = || {
        vec![
            said("assistant", ""),
            said("user", "a"),
            thought("one"),
            thought("two"),
            said("assistant", "b"),
            said("user", "c"),
            thought("cut"),
        ]
    };
    assert_eq!(
        settled_as(messages(), UpstreamKind::OpenAi),
        ["user a ", "assistant b  (one\n\ntwo)", "user c "]
    );
    assert_eq!(
        settled_as(messages(), UpstreamKind::Ollama),
        ["user a ", "assistant b  (one\n\ntwo)", "user c ", "assistant   (cut)"]
    );
    assert!(settled(vec![said("assistant", "")], UpstreamKind::Ollama).is_empty());
    let image = Image { uri: "QUJD".into(), start: 0 };
    let shown = Message { images: vec![image], ..said("assistant", "") };
    assert_eq!(settled(vec![shown], UpstreamKind::OpenAi).len(), 1);
}

#[test]
fn a_system_message_stands_first_and_a_later_one_with_the_user() {
    let messages = || {
        vec![
            said("system", "a"),
            said("system", "b"),
            said("user", "c"),
            said("system", "d"),
            said("assistant", "e"),
            said("system", "f"),
        ]
    };
    assert_eq!(
        settled_as(messages(), UpstreamKind::OpenAi),
        [
            "system a\n\nb ",
            "user c\n\n<system>\nd\n</system> ",
            "assistant e ",
            "user <system>\nf\n</system> "
        ]
    );
    assert_eq!(settled_as(messages(), UpstreamKind::Ollama).len(), 6);
    let late = vec![said("user", "a"), said("system", "b")];
    assert_eq!(settled_as(late, UpstreamKind::OpenAi), ["user a\n\n<system>\nb\n</system> "]);
}

#[test]
fn two_things_that_were_said_stay_two() {
    let messages = vec![said("assistant", "a"), said("assistant", "b")];
    assert_eq!(settled_as(messages, UpstreamKind::OpenAi), ["assistant a ", "assistant b "]);
}

#[test]
fn the_calls_of_one_turn_are_counted() {
    let turn = settled(vec![calls(&["x"]), calls(&["y"]), calls(&["z"])], UpstreamKind::Ollama);
    let turn: Value = serde_json::to_value(&turn[0]).unwrap();
    let indices: Vec<_> =
        (0..3).map(|at| turn["tool_calls"][at]["function"]["index"].clone()).collect();
    assert_eq!(indices, [json!(0), json!(1), json!(2)]);
}

/// Whether OpenAI's API takes them: one system message in front, each result behind the turn of its call, each call
/// with a result, no turn of an assistant without anything.
fn is_taken(messages: &[Message<'_>]) -> bool {
    let mut waiting: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message.role == "tool" {
            let id = message.tool_call_id.as_deref();
            let Some(at) = waiting.iter().position(|waits| Some(*waits) == id) else {
                return false;
            };
            waiting.remove(at);
            continue;
        }
        let is_late = message.role == "system" && at > 0;
        if !waiting.is_empty() || is_late || (message.role == "assistant" && is_silent(message)) {
            return false;
        }
        waiting.extend(message.tool_calls.iter().filter_map(|call| call.id.as_deref()));
    }
    waiting.is_empty()
}

proptest! {
    #[test]
    fn whatever_was_said_openais_api_takes_it_and_no_word_is_lost(
        picks in prop::collection::vec(0..12_usize, 0..24),
    ) {
        const IDS: [&str; 3] = ["x", "y", ""];
        let mut words = Vec::new();
        let mut messages = Vec::new();
        for (at, pick) in picks.into_iter().enumerate() {
            let word = format!("w{at}.");
            let mut message = match pick {
                0 => said("system", ""),
                1 | 2 => said("user", ""),
                3 => said("assistant", ""),
                4 => thought("t"),
                5 => calls(&["x"]),
                6 => calls(&["y", "z", ""]),
                7 => calls(&["", ""]),
                _ => result(IDS[pick % 3], ""),
            };
            if !matches!(pick, 4..8) {
                message.content = word.clone().into();
                words.push(word);
            }
            messages.push(message);
        }
        let settled = settled(messages, UpstreamKind::OpenAi);
        let said: Vec<_> = settled.iter().map(|message| message.content.clone()).collect();
        prop_assert!(is_taken(&settled), "{said:?}");
        for word in words {
            prop_assert_eq!(said.iter().filter(|said| said.contains(&word)).count(), 1, "{}", word);
        }
    }
}
