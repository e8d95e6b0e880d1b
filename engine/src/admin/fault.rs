//! What an operator is told when something cannot be done.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::party::PartyError;

/// Why something could not be done.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such thing.
    NotFound(String),
    /// What was asked cannot be.
    Invalid(String),
    /// It was not proven who asks.
    Unauthorized,
    /// Nobody may change anything here.
    NoToken,
    /// The database.
    Storage(storage::Error),
    /// Something of ours.
    Internal,
}

impl From<PartyError> for Fault {
    fn from(error: PartyError) -> Self {
        match error {
            PartyError::Storage(error) => Self::Storage(error),
            PartyError::NotFound(..) => Self::NotFound(error.to_string()),
            PartyError::NoBudget(..) => Self::Invalid(error.to_string()),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::NotFound(message) => (StatusCode::NOT_FOUND, message),
            Self::Invalid(message) => (StatusCode::UNPROCESSABLE_ENTITY, message),
            Self::Unauthorized => {
                let message = "give the operator's token: Authorization: Bearer …".to_owned();
                (StatusCode::UNAUTHORIZED, message)
            }
            Self::NoToken => {
                let message = "changes need `admin.token` to be configured".to_owned();
                (StatusCode::FORBIDDEN, message)
            }
            Self::Storage(storage::Error::NotFound(what)) => {
                (StatusCode::NOT_FOUND, format!("there is no such {what}"))
            }
            Self::Storage(storage::Error::Conflict(what)) => {
                (StatusCode::CONFLICT, format!("the {what} is there already"))
            }
            Self::Storage(error) => {
                tracing::warn!(%error, "an operator's request failed");
                (StatusCode::SERVICE_UNAVAILABLE, "the database cannot be used".to_owned())
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "it failed".to_owned()),
        };
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some("Bearer");
        let mut response = (status, Json(json!({ "error": message }))).into_response();
        if let Some(Ok(value)) = challenge.map(str::parse) {
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, value);
        }
        response
    }
}
