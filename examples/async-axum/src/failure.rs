//! What went wrong, as an HTTP answer.

use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use diesel::result::{DatabaseErrorKind, Error as Diesel};
use diesel_async::pooled_connection::deadpool::PoolError;
use outbox_core::{Error, ErrorKind};

/// An error of our own: the discount would sell this product below its cost.
#[derive(Debug)]
pub(crate) struct BelowCost {
    pub(crate) sku: String,
}

impl fmt::Display for BelowCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} would sell below its cost", self.sku)
    }
}

impl std::error::Error for BelowCost {}

/// The error of every handler.
#[derive(Debug)]
pub(crate) struct Failure(Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Application => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Outage => StatusCode::SERVICE_UNAVAILABLE,
            _ if is_constraint(&self.0) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // The caller can do nothing about our own trouble, and its text may tell too much.
        let text = if status.is_server_error() {
            eprintln!("async-axum: {}", self.0);
            status.canonical_reason().unwrap_or_default().to_owned()
        } else {
            self.0.to_string()
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

/// Whether a constraint of the database refused the write.
pub(crate) fn is_constraint(error: &Error) -> bool {
    use DatabaseErrorKind::{CheckViolation, ForeignKeyViolation, NotNullViolation, UniqueViolation};
    matches!(
        error.downcast_ref(),
        Some(Diesel::DatabaseError(
            CheckViolation | ForeignKeyViolation | NotNullViolation | UniqueViolation,
            _
        ))
    )
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Diesel> for Failure {
    fn from(error: Diesel) -> Self {
        Self(error.into())
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self(Error::with_source(ErrorKind::Outage, "no database connection from the pool", error))
    }
}
