//! Images that a request names by their address: fetched after it was let in, so that one which is refused
//! reaches nobody, and before an upstream is asked, so that none waits for them.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::try_join_all;
use protocol::{
    error::Code,
    ollama::request::BodyError,
    route::{Route, UpstreamKind},
    translate::request::{Request, Target},
};

use super::authorized::Inference;
use crate::{gateway::Gateway, http::refusal::Refusal, upstream::images::Image};

/// Stands for an image that is not there yet.
const PIXEL: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// The addresses of images that are to be fetched: none where the operator does not allow it, and such a
/// request is refused when it is written.
///
/// # Errors
/// Where there are too many, or the request could not be done with them either.
pub(super) fn remote(
    request: &Request<'_>,
    (route, kind): (Route, UpstreamKind),
    gateway: &Gateway,
) -> Result<Vec<String>, Refusal> {
    let Some(count_max) = gateway.images.count_max() else { return Ok(Vec::new()) };
    let urls: Vec<String> = request.remote_images().map(str::to_owned).collect();
    if urls.len() > count_max {
        let message = format!("At most {count_max} images are fetched for a request.");
        let field = place(request, (route, kind), urls.first());
        return Err(Refusal::Body(BodyError {
            code: Code::InvalidRequest,
            field,
            message: message.into(),
        }));
    }
    if !urls.is_empty() {
        written(request, (route, kind), &urls).map_err(Refusal::Body)?;
    }
    Ok(urls)
}

/// Fetches the images of a request and puts them into its body, with the room that they take.
///
/// # Errors
/// Where one of them cannot be had.
pub(super) async fn fetch(inference: &mut Inference, gateway: &Gateway) -> Result<(), Refusal> {
    let urls = std::mem::take(&mut inference.remote);
    if urls.is_empty() {
        return Ok(());
    }
    let request = Request::read(inference.route, &inference.body).map_err(Refusal::Body)?;
    let fetches = urls.iter().map(|url| async move {
        let fetched = gateway.images.fetch(url, &gateway.bodies).await;
        fetched.map_err(|fault| (url, fault))
    });
    let images = match try_join_all(fetches).await {
        Ok(images) => images,
        Err((url, fault)) => {
            let at = (inference.route, UpstreamKind::OpenAi);
            return Err(Refusal::Image(fault, place(&request, at, Some(url))));
        }
    };
    let mut fetched = HashMap::new();
    for (url, Image { uri, room: more }) in urls.into_iter().zip(images) {
        fetched.insert(url, uri);
        match (&mut inference.room, more) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = held.take().or(more),
        }
    }
    let body = request.with_images(&fetched);
    inference.body = Bytes::from(body);
    Ok(())
}

/// Where in the body the image of that address stands first: what the writer complains of, if it alone is
/// missing.
fn place(request: &Request<'_>, at: (Route, UpstreamKind), url: Option<&String>) -> Option<String> {
    let others = request.remote_images().filter(|other| url.is_some_and(|url| url != other));
    let others: Vec<String> = others.map(str::to_owned).collect();
    written(request, at, &others).err().and_then(|error| error.field)
}

/// Writes a request as if the images of these addresses were there.
fn written(
    request: &Request<'_>,
    (route, kind): (Route, UpstreamKind),
    urls: &[String],
) -> Result<(), BodyError> {
    let fetched = urls.iter().map(|url| (url.clone(), PIXEL.to_owned())).collect();
    let body = request.with_images(&fetched);
    let filled = Request::read(route, &body)?;
    filled.write(&Target { kind, model: Some("-"), tokens_max: None }).map(drop)
}
