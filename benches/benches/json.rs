//! Which parser a request body is best read with, for the sizes that occur: the numbers and what was made of
//! them stand in `protocol/src/body.rs`.
//!
//! simd-json writes into what it reads. A body that may pass as it came must be copied for it first, and
//! that is counted.

use std::{borrow::Cow, hint::black_box};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use protocol::{route::Route, translate::request::Request};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

const KIB: usize = 1024;

/// What policy looks at: the values as they stand, none of them decoded.
#[derive(Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: &'a RawValue,
    stream: Option<bool>,
}

/// The same where there is no text left to point at.
#[derive(Deserialize)]
struct Skipped<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(rename = "messages")]
    _messages: IgnoredAny,
    stream: Option<bool>,
}

type Reading = fn(&mut Bencher<'_>, &[u8]);

/// A chat of many messages.
fn conversation(size: usize) -> String {
    let turn = r#"{"role":"user","content":"What is \"this\", in a sentence or two?\nAnd why?"},{"role":"assistant","content":"It is a thing of which nobody knows much, and that is why."}"#;
    let turns = vec![turn; (size / turn.len()).max(1)];
    format!(r#"{{"model":"llama3.2","stream":true,"messages":[{}]}}"#, turns.join(","))
}

/// A question about an image.
fn image(size: usize) -> String {
    let image = "iVBORw0K".repeat(size / 8);
    format!(
        r#"{{"model":"llava","stream":true,"messages":[{{"role":"user","content":[{{"type":"text","text":"What?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
    )
}

fn by_the_gateway(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| Request::read(Route::OpenAiChat, black_box(body)).is_ok());
}

fn fields_of_serde_json(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| {
        let read: Result<Borrowed<'_>, _> = serde_json::from_slice(black_box(body));
        read.is_ok_and(|read| {
            read.stream == Some(true) && !read.model.is_empty() && !read.messages.get().is_empty()
        })
    });
}

fn tree_of_serde_json(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(body)).is_ok());
}

fn fields_of_simd_json(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| {
        let mut copy = black_box(body).to_vec();
        let read: Result<Skipped<'_>, _> = simd_json::serde::from_slice(&mut copy);
        read.is_ok_and(|read| read.stream == Some(true) && !read.model.is_empty())
    });
}

fn tape_of_simd_json(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| simd_json::to_tape(&mut black_box(body).to_vec()).is_ok());
}

fn tree_of_simd_json(bencher: &mut Bencher<'_>, body: &[u8]) {
    bencher.iter(|| simd_json::to_borrowed_value(&mut black_box(body).to_vec()).is_ok());
}

fn bodies(criterion: &mut Criterion) {
    let readings: [(&str, Reading); 6] = [
        ("the gateway reads what policy must know", by_the_gateway),
        ("serde_json borrows three fields", fields_of_serde_json),
        ("serde_json builds a tree", tree_of_serde_json),
        ("simd-json reads two fields of a copy", fields_of_simd_json),
        ("simd-json makes a tape of a copy", tape_of_simd_json),
        ("simd-json builds a tree of a copy", tree_of_simd_json),
    ];
    for (size, body) in [
        ("1 KiB", conversation(KIB)),
        ("100 KiB", conversation(100 * KIB)),
        ("1 MiB", conversation(KIB * KIB)),
        ("20 MiB with an image", image(20 * KIB * KIB)),
    ] {
        let body = body.into_bytes();
        let mut group = criterion.benchmark_group("a body");
        group.throughput(Throughput::Bytes(body.len() as u64)).sample_size(20);
        for (name, reading) in readings {
            group.bench_with_input(BenchmarkId::new(name, size), &body[..], reading);
        }
        group.finish();
    }
}

criterion_group!(benches, bodies);
criterion_main!(benches);
