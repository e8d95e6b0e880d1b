//! What the wire formats cost: reading a request, passing and translating a stream.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use identity::api_key::{PresentedKey, mint};
use protocol::{
    name::ModelName,
    ollama::{request::inspect, stream::NativeStream},
    route::Route,
    translate::{chat_reply::ReplyMeta, chat_request::chat_request, chat_stream::ChatStream},
};

const LINES: usize = 100;

fn body(words: usize) -> String {
    let text = "word ".repeat(words);
    format!(
        r#"{{"model":"llama3.2","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    )
}

/// A stream of a hundred chunks, as Ollama sends it.
fn lines() -> Vec<Bytes> {
    let line = |number: usize| {
        format!(
            "{{\"model\":\"llama3.2\",\"created_at\":\"2026-11-23T12:00:00.{number:09}Z\",\
             \"message\":{{\"role\":\"assistant\",\"content\":\" word\"}},\"done\":false}}\n"
        )
    };
    let last = "{\"model\":\"llama3.2\",\"created_at\":\"2026-11-23T12:00:01Z\",\"message\":\
        {\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\
        \"prompt_eval_count\":5,\"eval_count\":100}\n";
    (0..LINES).map(line).chain([last.to_owned()]).map(Bytes::from).collect()
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for words in [10, 10_000] {
        let body = body(words);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("inspect/{words}_words"), |bencher| {
            bencher.iter(|| inspect(black_box(body.as_bytes()), Route::OllamaChat).is_ok());
        });
        group.bench_function(format!("translate/{words}_words"), |bencher| {
            bencher.iter(|| chat_request(black_box(body.as_bytes())).is_ok());
        });
    }
    group.finish();

    criterion.bench_function("name/canonicalise", |bencher| {
        bencher.iter(|| ModelName::parse(black_box("registry.ollama.ai/library/LLAMA3.2")).is_ok());
    });
    let key = mint(|buffer| buffer.fill(7)).key;
    criterion.bench_function("key/form_and_checksum", |bencher| {
        bencher.iter(|| PresentedKey::parse(black_box(key.expose())).is_ok());
    });
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(LINES as u64));
    let lines = lines();
    group.bench_function("pass/100_chunks", |bencher| {
        bencher.iter(|| {
            let mut stream = NativeStream::default();
            for line in &lines {
                black_box(stream.push(line.clone()));
            }
            stream.tail()
        });
    });
    group.bench_function("translate/100_chunks", |bencher| {
        bencher.iter(|| {
            let meta = ReplyMeta {
                id: "chatcmpl-0".to_owned(),
                created: 1_795_452_870,
                model: "llama3.2".to_owned(),
            };
            let mut stream = ChatStream::new(meta, false);
            let mut out = BytesMut::new();
            for line in &lines {
                let line = line.trim_ascii_end();
                assert!(stream.line(line, &mut out).is_ok());
                black_box(out.split());
            }
            stream.usage()
        });
    });
    group.finish();
}

criterion_group!(benches, requests, streams);
criterion_main!(benches);
