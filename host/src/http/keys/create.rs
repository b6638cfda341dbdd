//! `POST /keys`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;

use super::view::IssuedKeyView;
use crate::app::keys::KeyRequest;
use crate::domain::access::{Requester, Role};
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Fields, Parsed, RequestBody};

impl RequestBody for KeyRequest {
    const NAME: &'static str = "key";
    const FIELDS: &'static [&'static str] = &["principal", "description", "roles", "expires_at"];

    fn take(fields: &mut Fields) -> Self {
        Self {
            principal: fields.text("principal").unwrap_or_default(),
            description: fields.text("description").unwrap_or_default(),
            roles: roles(fields),
            expires_at_ms: fields.time("expires_at"),
            created_by: None,
        }
    }
}

fn roles(fields: &mut Fields) -> Vec<Role> {
    let listed = match fields.take("roles") {
        None => return Vec::new(),
        Some(Value::Array(listed)) => listed,
        Some(_) => {
            fields.problem("/roles", "must be a list of roles, such as `[\"read\"]`");
            return Vec::new();
        }
    };
    let mut roles = Vec::new();
    for (at, one) in listed.iter().enumerate() {
        match one.as_str().map(str::parse) {
            Some(Ok(role)) => roles.push(role),
            Some(Err(error)) => fields.problem(&format!("/roles/{at}"), format!("{error}")),
            None => fields.problem(&format!("/roles/{at}"), "must be a string"),
        }
    }
    roles
}

/// Creates an API key. The answer has its secret, which is never shown again.
#[utoipa::path(post, path = "/keys", tag = "keys",
    request_body = ref("#/components/schemas/NewApiKey"),
    responses(
        (status = 201, description = "Created", body = IssuedKeyView),
        (status = 409, description = "The principal has two valid keys", body = Problem),
    ))]
pub(crate) async fn create(
    State(app): State<Shared>,
    requester: Requester,
    Parsed(request): Parsed<KeyRequest>,
) -> Answer<(StatusCode, Json<IssuedKeyView>)> {
    let created_by = Some(requester.principal.id().to_owned());
    let issued = app.keys().create(KeyRequest { created_by, ..request }).await?;
    Ok((StatusCode::CREATED, Json(issued.into())))
}
