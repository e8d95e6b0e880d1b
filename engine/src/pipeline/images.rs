//! Images that a request names by their address: fetched after it was let in, so that one which is refused
//! reaches nobody, and before an upstream is asked, so that none waits for them.

use std::{collections::HashMap, sync::Arc};

use actors::catalog::Model;
use bytes::Bytes;
use futures_util::future::try_join_all;
use protocol::{
    error::Code,
    id::TenantId,
    levers::Levers,
    ollama::request::BodyError,
    route::{Route, UpstreamKind},
    translate::request::{Request, Target},
};

use super::{
    authorized::Inference,
    fitting::{Fitting, Terms},
};
use crate::{gateway::Gateway, http::refusal::Refusal, upstream::images::Image};

/// Stands for an image that is not there yet.
const PIXEL: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// The addresses of images that are to be fetched: none where the operator does not allow it, and such a
/// request is refused when it is written.
///
/// # Errors
/// Where there are too many.
pub(super) fn remote(
    request: &Request<'_>,
    route: Route,
    gateway: &Gateway,
) -> Result<Vec<String>, Refusal> {
    let Some(count_max) = gateway.images.count_max() else { return Ok(Vec::new()) };
    let urls: Vec<String> = request.remote_images().map(str::to_owned).collect();
    if urls.len() > count_max {
        let message = format!("At most {count_max} images are fetched for a request.");
        return Err(Refusal::Body(BodyError {
            code: Code::InvalidRequest,
            field: place(request, route, urls.first()),
            message: message.into(),
        }));
    }
    Ok(urls)
}

/// Who can take a request once its images are there. What it is then sent is written then.
///
/// # Errors
/// Where it could not be done with them either.
pub(super) fn fitting(
    request: &Request<'_>,
    (route, urls): (Route, &[String]),
    targets: Vec<Arc<Model>>,
    terms: Terms<'_>,
) -> Result<Fitting, Refusal> {
    let body = Bytes::from(filled(request, urls));
    let request = Request::read(route, &body).map_err(Refusal::Body)?;
    let fitting = Fitting::find(&request, &body, targets, terms)?;
    Ok(Fitting { written: Vec::new(), ..fitting })
}

/// Fetches the images of a request and puts them into its body, with the room that they take.
///
/// # Errors
/// Where one of them cannot be had.
pub(super) async fn fetch(
    inference: &mut Inference,
    (tenant, gateway): (TenantId, &Gateway),
) -> Result<(), Refusal> {
    let urls = std::mem::take(&mut inference.remote);
    if urls.is_empty() {
        return Ok(());
    }
    let request = Request::read(inference.route, &inference.body).map_err(Refusal::Body)?;
    let fetches = urls.iter().map(|url| async move {
        let fetched = gateway.images.fetch(url, tenant, gateway.bodies.hold(tenant)).await;
        fetched.map_err(|fault| (url, fault))
    });
    let images = match try_join_all(fetches).await {
        Ok(images) => images,
        Err((url, fault)) => {
            return Err(Refusal::Image(fault, place(&request, inference.route, Some(url))));
        }
    };
    let mut fetched = HashMap::new();
    for (url, Image { uri, room }) in urls.into_iter().zip(images) {
        inference.image_rooms.push(room);
        fetched.insert(url, uri);
    }
    let body = request.with_images(&fetched);
    inference.body = Bytes::from(body);
    Ok(())
}

/// Where in the body the image of that address stands first: what the writer complains of, if it alone is
/// missing.
fn place(request: &Request<'_>, route: Route, url: Option<&String>) -> Option<String> {
    let others = request.remote_images().filter(|other| url.is_some_and(|url| url != other));
    let body = filled(request, &others.map(str::to_owned).collect::<Vec<_>>());
    let request = Request::read(route, &body).ok()?;
    let (kind, levers) = (UpstreamKind::OpenAi, &Levers::OPEN);
    let target = Target { kind, model: Some("-"), tokens_max: None, levers };
    request.write(&target).err().and_then(|error| error.field)
}

/// The body as if the images of these addresses were there.
fn filled(request: &Request<'_>, urls: &[String]) -> Vec<u8> {
    request.with_images(&urls.iter().map(|url| (url.clone(), PIXEL.to_owned())).collect())
}
