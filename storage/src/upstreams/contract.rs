//! What every database owes the port of upstreams.

use super::{Upstream, UpstreamKind};
use crate::{
    Error, Storage,
    testing::{contract, noon},
};

contract! {
    upstreams_are_listed_by_name,
    a_name_is_taken_once,
    what_is_not_there_is_not_removed,
    slots_can_be_changed,
    keep_alive_can_be_changed,
}

fn upstream(name: &str) -> Upstream {
    let url = "http://127.0.0.1:11434".to_owned();
    Upstream {
        name: name.to_owned(),
        url,
        kind: UpstreamKind::Ollama,
        slots: (name == "a").then_some(4),
        keep_alive: name != "b",
        created_at: noon(),
    }
}

async fn upstreams_are_listed_by_name(storage: &Storage) {
    for name in ["b", "a", "B"] {
        storage.upstreams.add(upstream(name)).await.unwrap();
    }
    let all = [upstream("B"), upstream("a"), upstream("b")];
    assert_eq!(storage.upstreams.list().await.unwrap(), all);
}

async fn a_name_is_taken_once(storage: &Storage) {
    storage.upstreams.add(upstream("a")).await.unwrap();
    let again = storage.upstreams.add(upstream("a")).await;
    assert!(matches!(again, Err(Error::Conflict("upstream"))));
}

async fn slots_can_be_changed(storage: &Storage) {
    storage.upstreams.add(upstream("a")).await.unwrap();
    for slots in [Some(9), None] {
        storage.upstreams.set_slots("a", slots).await.unwrap();
        assert_eq!(storage.upstreams.list().await.unwrap()[0].slots, slots);
    }
    let missing = storage.upstreams.set_slots("b", None).await;
    assert!(matches!(missing, Err(Error::NotFound("upstream"))));
}

async fn keep_alive_can_be_changed(storage: &Storage) {
    storage.upstreams.add(upstream("a")).await.unwrap();
    for keep_alive in [false, true] {
        storage.upstreams.set_keep_alive("a", keep_alive).await.unwrap();
        assert_eq!(storage.upstreams.list().await.unwrap()[0].keep_alive, keep_alive);
    }
    let missing = storage.upstreams.set_keep_alive("b", false).await;
    assert!(matches!(missing, Err(Error::NotFound("upstream"))));
}

async fn what_is_not_there_is_not_removed(storage: &Storage) {
    storage.upstreams.add(upstream("a")).await.unwrap();
    storage.upstreams.remove("a").await.unwrap();
    assert_eq!(storage.upstreams.list().await.unwrap(), []);
    let again = storage.upstreams.remove("a").await;
    assert!(matches!(again, Err(Error::NotFound("upstream"))));
}
