//! What the wire formats cost: reading a request, passing and translating a stream.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use identity::api_key::{PresentedKey, mint};
use protocol::{
    levers::Levers,
    name::ModelName,
    ollama::stream::NativeStream,
    openai::stream::PassedStream,
    route::{Route, UpstreamKind},
    translate::{
        Echo, Reply, ReplyMeta,
        request::{Request, Target},
        stream::Translation,
    },
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

fn meta() -> ReplyMeta {
    ReplyMeta { id: "0".to_owned(), created: 1_795_452_870, model: "llama3.2".to_owned() }
}

/// The same stream in OpenAI's dialect.
fn events() -> Vec<Bytes> {
    let reply = Reply::Chat { include_usage: true };
    let stream = Translation::new(UpstreamKind::Ollama, reply, meta(), 5);
    let lines = lines().into_iter();
    stream.map_or(Vec::new(), |mut stream| lines.map(|line| stream.push(line).0).collect())
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for words in [10, 10_000] {
        let body = body(words);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("read/{words}_words"), |bencher| {
            bencher.iter(|| Request::read(Route::OllamaChat, black_box(body.as_bytes())).is_ok());
        });
        for kind in UpstreamKind::ALL {
            let target =
                Target { kind: *kind, model: Some("m"), tokens_max: None, levers: &Levers::OPEN };
            group.bench_function(format!("chat_to_{kind}/{words}_words"), |bencher| {
                bencher.iter(|| {
                    let request = Request::read(Route::OpenAiChat, black_box(body.as_bytes()));
                    request.and_then(|request| request.write(&target)).is_ok()
                });
            });
        }
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
    let chat = || Reply::Chat { include_usage: false };
    let response = || Reply::Response(Box::<Echo>::default());
    let dialects: [(&str, &dyn Fn() -> Reply); 3] =
        [("chat", &chat), ("response", &response), ("message", &|| Reply::Message)];
    for (name, reply) in dialects {
        group.bench_function(format!("to_{name}/100_chunks"), |bencher| {
            bencher.iter(|| {
                let from = UpstreamKind::Ollama;
                let mut stream = Translation::new(from, reply(), meta(), 5)?;
                for line in &lines {
                    black_box(stream.push(line.clone()));
                }
                stream.usage()
            });
        });
    }
    let events = events();
    group.bench_function("pass_openai/100_chunks", |bencher| {
        bencher.iter(|| {
            let mut stream = PassedStream::new(true);
            for event in &events {
                black_box(stream.push(event.clone()));
            }
            stream.usage()
        });
    });
    group.finish();
}

criterion_group!(benches, requests, streams);
criterion_main!(benches);
