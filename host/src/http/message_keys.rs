//! `/broker/keys`: the keys with which hosts sign their messages.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::pages::Items;
use super::problem::{Answer, Kind, Problem};
use super::request::MessageKeyId;
use crate::app::{KeyRotation, MessageKeyInfo};
use crate::store::KeyRemoved;

/// A key with which hosts sign their messages to RabbitMQ. Its secret is never shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageKey)]
pub(crate) struct MessageKeyView {
    /// Its name, which messages show.
    id: String,
    /// When it was added, milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// Whether hosts sign with it. Messages that are signed with another one are accepted until it is
    /// removed.
    signs: bool,
}

impl From<MessageKeyInfo> for MessageKeyView {
    fn from(MessageKeyInfo { id, created_at_ms, signs }: MessageKeyInfo) -> Self {
        Self { id, created_at_ms, signs }
    }
}

/// A key that was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyRemovedView {
    id: String,
    /// `removed`.
    state: &'static str,
}

/// Lists the keys with which hosts sign their messages, the newest first. With the embedded broker there
/// are none.
#[utoipa::path(get, path = "/broker/keys", tag = "broker",
    responses((status = 200, body = Items<MessageKeyView>)))]
pub(crate) async fn list(State(app): State<Shared>) -> Answer<Json<Items<MessageKeyView>>> {
    Ok(Json(Items::of(app.message_keys().await?)))
}

/// Adds a key with which every host signs from now on. Older ones are still accepted.
#[utoipa::path(post, path = "/broker/keys", tag = "broker",
    responses(
        (status = 200, description = "All keys, the new one first", body = Items<MessageKeyView>),
        (status = 409, description = "The broker is embedded, or there are too many keys",
            body = Problem),
    ))]
pub(crate) async fn rotate(State(app): State<Shared>) -> Answer<Json<Items<MessageKeyView>>> {
    match app.rotate_message_key().await? {
        KeyRotation::Rotated(keys) => Ok(Json(Items::of(keys))),
        KeyRotation::TooMany => {
            Err(Problem::new(Kind::MESSAGE_KEY, "there are too many keys: remove old ones first"))
        }
        KeyRotation::NothingSigned => Err(Problem::new(
            Kind::MESSAGE_KEY,
            "the broker is embedded: no other program can send messages, and none is signed",
        )),
    }
}

/// Removes a key that is not the newest. Messages that are signed with it and still wait are taken from
/// the store.
#[utoipa::path(delete, path = "/broker/keys/{key}", tag = "broker", params(MessageKeyId),
    responses(
        (status = 200, body = KeyRemovedView),
        (status = 404, description = "There is no such key", body = Problem),
        (status = 409, description = "Hosts sign with it", body = Problem),
    ))]
pub(crate) async fn remove(
    State(app): State<Shared>,
    Path(MessageKeyId(id)): Path<MessageKeyId>,
) -> Answer<Json<KeyRemovedView>> {
    match app.remove_message_key(&id).await? {
        KeyRemoved::Removed => Ok(Json(KeyRemovedView { id, state: "removed" })),
        KeyRemoved::NotFound => Err(Problem::not_found(format!("there is no key `{id}`"))),
        KeyRemoved::Newest => Err(Problem::new(
            Kind::MESSAGE_KEY,
            format!("hosts sign with `{id}`: add another key first"),
        )),
    }
}
