//! What a request costs inside, stage by stage; README.md says how each is measured. What is allocated does
//! not vary from run to run, so that it is tested here.

pub mod fixtures;
pub mod stage;

#[cfg(test)]
mod allocations {
    use std::collections::VecDeque;

    use allocation_counter::{AllocationInfo, measure};
    use bytes::Bytes;
    use protocol::{
        levers::Levers,
        route::{Route, UpstreamKind},
        translate::{
            Reply, ReplyMeta,
            request::{Request, Target},
            stream::Translation,
        },
    };

    const IMAGE: usize = 20 * 1024 * 1024;
    const CHUNKS: u64 = 1_000;

    /// Chunks that have been written and not yet sent: as many as a connection may hold back.
    const ON_THE_WAY: usize = 16;

    /// What reading such a body and writing it for such an upstream allocates.
    fn written(route: Route, body: &str, kind: UpstreamKind) -> AllocationInfo {
        let levers = &Levers::OPEN;
        let target = Target { kind, model: Some("m"), tokens_max: Some(7), levers };
        measure(|| {
            let request = Request::read(route, body.as_bytes());
            assert!(request.and_then(|request| request.write(&target)).is_ok());
        })
    }

    #[test]
    fn a_body_with_a_large_image_is_copied_once_in_every_dialect() {
        let image = "A".repeat(IMAGE);
        let user = |content: String| format!(r#"[{{"role":"user","content":[{content}]}}]"#);
        let url = format!("data:image/png;base64,{image}");
        let chat = user(format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#));
        let message =
            user(format!(r#"{{"type":"image","source":{{"type":"base64","data":"{image}"}}}}"#));
        let response = user(format!(r#"{{"type":"input_image","image_url":"{url}"}}"#));
        let native = format!(r#"[{{"role":"user","content":"What?","images":["{image}"]}}]"#);
        for (route, field, value) in [
            (Route::OpenAiChat, "messages", chat),
            (Route::AnthropicMessages, "messages", message),
            (Route::OpenAiResponses, "input", response),
            (Route::OllamaChat, "messages", native),
        ] {
            let body = format!(r#"{{"model":"llava","max_tokens":9,"{field}":{value}}}"#);
            for kind in UpstreamKind::ALL {
                let most = written(route, &body, *kind).bytes_total;
                let size = body.len() as u64;
                let once = size..size + size / 10;
                assert!(once.contains(&most), "{route:?} to {kind}: {most} of {size} bytes");
            }
        }
    }

    #[test]
    fn in_the_steady_state_an_allocation_serves_five_chunks_of_a_chat_at_least() {
        let meta = ReplyMeta { id: "0".to_owned(), created: 0, model: "m".to_owned() };
        let reply = Reply::Chat { include_usage: false };
        let Some(mut stream) = Translation::new(UpstreamKind::Ollama, reply, meta, 1) else {
            panic!("a chat may be a stream")
        };
        let line = Bytes::from_static(
            b"{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n",
        );
        stream.push(line.clone());
        // They are held, as a connection holds them: what is written cannot be written over.
        let mut held = VecDeque::with_capacity(ON_THE_WAY);
        let counted = measure(|| {
            for _ in 0..CHUNKS {
                let (bytes, fault) = stream.push(line.clone());
                assert!(fault.is_none() && !bytes.is_empty());
                if held.len() == ON_THE_WAY {
                    held.pop_front();
                }
                held.push_back(bytes);
            }
        });
        let count = counted.count_total;
        assert!(count <= CHUNKS / 5, "{count} allocations in {CHUNKS} chunks");
    }
}
