//! `GET /limits`: how much of each limit is used, and by whom.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::middleware::Reception;
use super::rate_limits;
use super::rate_limits::clients::Figures;
use crate::app::Load;

/// How much of each limit is used, and by whom.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limits)]
pub(crate) struct LimitsView {
    /// The limits on what waits in memory.
    limits: Vec<LimitView>,
    /// The principals whose requests hold the most bytes, then those of the others that sent the most
    /// requests in the last minute.
    principals: Vec<ClientView>,
    /// The same for the addresses of all namespaces; none in another namespace than the first.
    addresses: Option<Vec<ClientView>>,
}

/// How much of a limit is used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub(crate) struct LimitView {
    /// What is limited.
    limit: LimitName,
    /// The stage whose queue it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    stage: Option<String>,
    /// What is counted.
    unit: Unit,
    /// How much is used.
    used: u64,
    /// The limit.
    max: u64,
    /// Its key in the configuration; none: it is fixed.
    setting: Option<&'static str>,
}

/// What is limited.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LimitName {
    /// Connections of all namespaces; only in the first.
    Connections,
    /// Requests that were received whole and are not answered yet.
    Requests,
    /// Bodies of requests in progress, with what their JSON needs once it is parsed.
    Bodies,
    /// Large answers that wait for their readers.
    Answers,
    /// Live streams and exports.
    Streams,
    /// Events and state that wait for the store's writer.
    Writer,
    /// The embedded queue of a stage.
    Queue,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Connections, requests, streams or messages.
    Count,
}

/// What the requests of a client use.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientUsage)]
pub(crate) struct ClientView {
    /// The id of its principal, or its address: `key/checkout`, `192.0.2.7`, `2001:db8::/64`.
    client: String,
    /// Bytes of the bodies of its requests, with what their JSON needs once it is parsed.
    bytes_in_progress: u64,
    /// Its requests, live streams included, whose answer was not sent yet.
    requests_in_progress: u64,
    /// Requests that it sent in the last minute, about.
    requests_last_minute: u64,
    /// Requests that were refused because of its rate limit, since the host knows it.
    refused: u64,
}

impl LimitView {
    fn new(limit: LimitName, unit: Unit, load: Load, setting: Option<&'static str>) -> Self {
        let Load { used, max } = load;
        Self { limit, stage: None, unit, used, max, setting }
    }

    fn of_queue(self, stage: &str) -> Self {
        Self { stage: Some(stage.to_owned()), ..self }
    }
}

impl From<(String, Figures)> for ClientView {
    fn from((client, figures): (String, Figures)) -> Self {
        let Figures { requests, bytes, last_minute, refused } = figures;
        Self {
            client,
            bytes_in_progress: bytes,
            requests_in_progress: requests,
            requests_last_minute: last_minute,
            refused,
        }
    }
}

/// Shows how much of each limit on memory is used on this host, and which clients use the most.
#[utoipa::path(get, path = "/limits", tag = "limits",
    responses((status = 200, body = LimitsView)))]
pub(crate) async fn show(
    State(app): State<Shared>,
    Extension(reception): Extension<Arc<Reception>>,
) -> Json<LimitsView> {
    use {LimitName as Name, LimitView as View, Unit::Bytes, Unit::Count};
    let (streams, writer) = (app.event_feed().streams(), app.writer_load());
    let connections = reception.connections.as_ref().map(|connections| {
        View::new(Name::Connections, Count, connections.load(), Some("http.connections_max"))
    });
    let own = [
        View::new(Name::Requests, Count, reception.load(), Some("http.concurrency_max")),
        View::new(Name::Bodies, Bytes, reception.budget.load(), Some("http.bodies_max_bytes")),
        View::new(Name::Answers, Bytes, reception.answers.load(), None),
        View::new(Name::Streams, Count, streams, Some("http.streams_max")),
        View::new(Name::Writer, Bytes, writer, None),
    ];
    let queues = app.queue_loads().into_iter().flat_map(|queue| {
        let setting = Some("broker.queue_capacity");
        let messages = View::new(Name::Queue, Count, queue.messages, setting);
        let bytes = View::new(Name::Queue, Bytes, queue.bytes, Some("broker.queue_max_bytes"));
        [messages, bytes].map(|view| view.of_queue(&queue.stage))
    });
    let limits = connections.into_iter().chain(own).chain(queues).collect();
    let principals = reception.entrance.principals.largest();
    let addresses = reception.connections.is_some().then(|| {
        let largest = reception.entrance.addresses.largest().into_iter();
        largest.map(|(address, figures)| (rate_limits::shown(&address), figures).into()).collect()
    });
    let principals = principals.into_iter().map(Into::into).collect();
    Json(LimitsView { limits, principals, addresses })
}
