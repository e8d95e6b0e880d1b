use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A part as a server sends it.
fn part(index: Option<u64>, id: &str, name: &str, arguments: &Value) -> Value {
    let mut part = json!({ "function": { "arguments": arguments } });
    if let Some(index) = index {
        part["index"] = index.into();
    }
    if !id.is_empty() {
        part["id"] = id.into();
    }
    if !name.is_empty() {
        part["function"]["name"] = name.into();
    }
    part
}

/// What clients make of the parts that are handed out: id, name and arguments of each call. No part of a call
/// follows one of another.
fn told(deltas: &[Vec<Value>], reason: Reason) -> Option<Vec<(String, String, String)>> {
    let mut calls = Calls::default();
    let mut told: Vec<(usize, String, String, String)> = Vec::new();
    let mut add = |piece: CallPiece<'_>| {
        let text = piece.arguments.text().unwrap().into_owned();
        match piece.name {
            Some(name) => {
                told.push((piece.index, piece.id.unwrap_or_default().into(), name.into(), text));
            }
            None => {
                let last = told.last_mut().unwrap();
                assert_eq!(last.0, piece.index);
                last.3.push_str(&text);
            }
        }
    };
    for delta in deltas {
        let raw: Box<RawValue> =
            serde_json::from_str(&Value::from(delta.clone()).to_string()).unwrap();
        calls.take(&raw)?.into_iter().for_each(&mut add);
    }
    calls.finish(reason)?.into_iter().for_each(&mut add);
    Some(told.into_iter().map(|(_, id, name, text)| (id, name, text)).collect())
}

fn all(parts: &[Value]) -> Option<Vec<(String, String, String)>> {
    let each: Vec<_> = parts.iter().map(|part| vec![part.clone()]).collect();
    let one_by_one = told(&each, Reason::Stop);
    assert_eq!(told(&[parts.to_vec()], Reason::Stop), one_by_one, "{parts:?}");
    one_by_one
}

fn calls(calls: &[(&str, &str, &str)]) -> Option<Vec<(String, String, String)>> {
    let call = |(id, name, text): &(&str, &str, &str)| {
        ((*id).to_owned(), (*name).to_owned(), (*text).to_owned())
    };
    Some(calls.iter().map(call).collect())
}

const A: &str = r#"{"a":"}"}"#;
const B: &str = r#"{"b":[1]}"#;

#[test]
fn parts_find_their_call() {
    let zero = Some(0);
    let both = calls(&[("i", "f", A), ("j", "g", B)]);
    let (open, rest) = (json!("{\"a\":"), json!("\"}\"}"));
    for (parts, why) in [
        (
            [
                part(zero, "i", "f", &open),
                part(Some(1), "j", "g", &json!(B)),
                part(zero, "", "", &rest),
            ],
            "mixed by index",
        ),
        (
            [
                part(zero, "i", "f", &open),
                part(zero, "", "", &rest),
                part(zero, "j", "g", &json!(B)),
            ],
            "one index for both",
        ),
        (
            [
                part(None, "i", "f", &open),
                part(None, "", "", &rest),
                part(None, "j", "g", &json!(B)),
            ],
            "no index",
        ),
        (
            [
                part(None, "i", "f", &open),
                part(None, "j", "g", &json!(B)),
                part(None, "i", "", &rest),
            ],
            "no index, mixed by id",
        ),
        (
            [
                part(zero, "i", "f", &open),
                part(zero, "i", "f", &rest),
                part(Some(1), "j", "g", &json!(B)),
            ],
            "name and id repeated",
        ),
        (
            [
                part(zero, "i", "f", &open),
                part(zero, "x", "", &rest),
                part(Some(1), "j", "g", &json!(B)),
            ],
            "another id in each part",
        ),
        (
            [
                part(zero, "i", "f", &open),
                part(zero, "x", "f", &rest),
                part(Some(1), "j", "g", &json!(B)),
            ],
            "another id and the name in each part",
        ),
    ] {
        assert_eq!(all(&parts), both, "{why}");
    }
    // Nothing tells them apart but that the first is whole.
    let parts = [part(zero, "", "f", &json!(A)), part(zero, "", "f", &json!(B))];
    assert_eq!(all(&parts), calls(&[("", "f", A), ("", "f", B)]));
}

#[test]
fn a_name_may_come_late_or_in_parts() {
    let zero = Some(0);
    let one = calls(&[("i", "get_it", A)]);
    let nothing = Value::Null;
    for parts in [
        vec![
            part(zero, "i", "", &json!("")),
            part(zero, "", "get_it", &json!("")),
            part(zero, "", "", &json!(A)),
        ],
        vec![part(zero, "i", "", &json!(A)), part(zero, "", "get_it", &nothing)],
        vec![part(zero, "", "get_it", &nothing), part(zero, "i", "", &json!(A))],
        vec![
            part(zero, "i", "get_", &nothing),
            part(zero, "i", "it", &nothing),
            part(zero, "i", "", &json!(A)),
        ],
        vec![part(zero, "i", "get_", &nothing), part(zero, "i", "get_it", &json!(A))],
    ] {
        assert_eq!(all(&parts), one, "{parts:?}");
    }
    assert_eq!(all(&[part(zero, "i", "", &json!(A))]), None);
}

#[test]
fn arguments_are_an_object_however_they_are_written() {
    let text = |text: &str| json!(text);
    for (arguments, expected) in [
        (vec![text("")], "{}"),
        (vec![Value::Null], "{}"),
        (vec![json!({})], "{}"),
        (vec![json!([])], "{}"),
        (vec![text("null")], "{}"),
        (vec![text("\"\"")], "{}"),
        (vec![text("{"), text("}")], "{}"),
        (vec![text("{}"), text(A)], A),
        (vec![json!({}), text("{\"a\":"), text("\"}\"}")], A),
        (vec![json!({ "a": "}" })], A),
        (vec![json!(json!(A).to_string())], A),
        (vec![text("\"{\\\"a"), text("\\\":\\\"}\\\"}\"")], A),
    ] {
        let first = |at: usize| if at == 0 { ("i", "f") } else { ("", "") };
        let parts: Vec<_> = arguments
            .iter()
            .enumerate()
            .map(|(at, arguments)| part(Some(0), first(at).0, first(at).1, arguments))
            .collect();
        assert_eq!(all(&parts), calls(&[("i", "f", expected)]), "{arguments:?}");
        if let [one] = &arguments[..] {
            let list = Value::from(vec![part(None, "i", "f", one)]).to_string();
            let raw: &RawValue = serde_json::from_str(&list).unwrap();
            let whole = whole(raw, Reason::Stop).unwrap();
            assert_eq!(whole[0].arguments.text().as_deref(), Some(expected), "{one}");
        }
    }
    for bad in [text("{\"a\":"), text("{a:1}"), text("{\"a\":1}}"), text("5"), json!([1]), json!(5)]
    {
        let part = part(Some(0), "i", "f", &bad);
        assert_eq!(all(std::slice::from_ref(&part)), None, "{bad}");
        let list = Value::from(vec![part]).to_string();
        assert!(whole(serde_json::from_str(&list).unwrap(), Reason::Stop).is_none(), "{bad}");
    }
}

#[test]
fn of_a_reply_that_was_cut_off_what_was_handed_out_is_left_and_nothing_more() {
    let half = json!("{\"a\":");
    let (first, second) = (part(Some(0), "i", "f", &half), part(Some(1), "j", "g", &half));
    let cut = |parts: Vec<Value>| told(&[parts], Reason::Length);
    assert_eq!(cut(vec![first, second]), calls(&[("i", "f", "{\"a\":")]));
    assert_eq!(cut(vec![part(Some(0), "i", "f", &json!(""))]), calls(&[]));
    assert_eq!(cut(vec![part(Some(0), "i", "", &half)]), calls(&[]));
    let (whole, empty) = (part(Some(1), "j", "g", &json!(B)), part(Some(0), "i", "f", &json!("")));
    assert_eq!(cut(vec![empty, whole]), calls(&[("i", "f", "{}"), ("j", "g", B)]));
}

#[test]
fn the_first_call_lives_and_what_follows_it_is_held_within_bounds() {
    let mut calls = Calls::default();
    let mut take = |parts: Value| {
        let raw: Box<RawValue> = serde_json::from_str(&parts.to_string()).unwrap();
        let out = calls.take(&raw).unwrap();
        (out.len(), calls.is_open(), calls.is_too_long())
    };
    assert_eq!(take(json!([part(Some(0), "i", "f", &json!("{\"a\":\""))])), (1, true, false));
    assert_eq!(take(json!([part(Some(0), "", "", &json!("x"))])), (1, true, false));
    let long = "x".repeat(EVENT_MAX / 2);
    let held = part(Some(1), "j", "g", &json!(format!("{{\"b\":\"{long}")));
    assert_eq!(take(json!([held])), (0, true, false));
    assert_eq!(take(json!([part(Some(1), "", "", &json!(long))])), (0, true, true));
}

proptest! {
    #[test]
    fn however_parts_are_mixed_the_calls_are_the_same(
        order in prop::collection::vec(0..3_usize, 0..60),
        sizes in prop::collection::vec(1..6_usize, 1..20),
        merged in prop::collection::vec(any::<bool>(), 1..20),
        repeats in any::<bool>(),
    ) {
        let texts = [A.to_owned(), json!({ "b": "{\"é\\" }).to_string(), "{}".to_owned()];
        let mut rest: Vec<Vec<char>> = texts.iter().map(|text| text.chars().collect()).collect();
        let mut begun = BTreeMap::new();
        let (mut deltas, mut sizes, mut merged) = (Vec::<Vec<Value>>::new(), sizes.into_iter().cycle(), merged.into_iter().cycle());
        for at in order.into_iter().chain((0..3).flat_map(|at| [at; 40])) {
            let size = sizes.next().unwrap().min(rest[at].len());
            let text: String = rest[at].drain(..size).collect();
            let count = begun.len();
            let is_first = *begun.entry(at).or_insert(count) == count;
            let (id, name) = (format!("i{at}"), format!("f{at}"));
            let part = if is_first || repeats {
                part(Some(at as u64), &id, &name, &json!(text))
            } else {
                part(Some(at as u64), "", "", &json!(text))
            };
            match deltas.last_mut() {
                Some(last) if merged.next().unwrap() => last.push(part),
                _ => deltas.push(vec![part]),
            }
        }
        let mut expected: Vec<_> = begun.into_iter().map(|(at, order)| (order, at)).collect();
        expected.sort_unstable();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(_, at)| (format!("i{at}"), format!("f{at}"), texts[at].clone()))
            .collect();
        prop_assert_eq!(told(&deltas, Reason::Stop), Some(expected));
    }
}
