//! What every database owes the port of models.

use super::Model;
use crate::{
    Error, Storage,
    testing::{contract, model},
};

contract! {
    what_is_put_replaces_what_was_there,
    what_is_not_there_is_not_removed,
}

fn known(name: &str) -> Model {
    Model { name: model(name), prompt_price: Some(1), completion_price: Some(2) }
}

async fn what_is_put_replaces_what_was_there(storage: &Storage) {
    storage.models.put(known("b:latest")).await.unwrap();
    storage.models.put(known("a:latest")).await.unwrap();
    let free = Model { prompt_price: Some(0), completion_price: None, ..known("b:latest") };
    storage.models.put(free.clone()).await.unwrap();
    assert_eq!(storage.models.list().await.unwrap(), [known("a:latest"), free]);
}

async fn what_is_not_there_is_not_removed(storage: &Storage) {
    storage.models.put(known("a:latest")).await.unwrap();
    storage.models.remove(&model("a:latest")).await.unwrap();
    assert_eq!(storage.models.list().await.unwrap(), []);
    let again = storage.models.remove(&model("a:latest")).await;
    assert!(matches!(again, Err(Error::NotFound("model"))));
}
