//! What a request can fail with, as JSON.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error of a handler.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The request makes no sense.
    BadRequest(String),
    /// No such thing.
    NotFound(&'static str),
    /// It can't be done to the thing as it is.
    Conflict(&'static str),
    /// Postgres failed.
    Database(sqlx::Error),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::BadRequest(message) => (StatusCode::BAD_REQUEST, "bad_request", message),
            Self::NotFound(what) => {
                (StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
            }
            Self::Conflict(why) => (StatusCode::CONFLICT, "conflict", why.to_owned()),
            Self::Database(error) => {
                // What Postgres says is for the log: it can name roles, tables and hosts.
                tracing::error!(error = &error as &dyn std::error::Error, "query failed");
                let message = "the database did not answer as it should".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "database", message)
            }
        };
        let body = json!({ "error": { "code": code, "message": message } });
        (status, Json(body)).into_response()
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

// The framework's own refusals are plain text; these make them look like all others.

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::BadRequest(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::BadRequest(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::BadRequest(rejection.body_text())
    }
}
