//! Orders as every store keeps them, and requests that create, cancel, list or prune them.

use serde_json::Value;

use super::NewEvent;

/// A new order.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// The id.
    pub id: String,
    /// The customer, if the order names one.
    pub customer: Option<String>,
    /// The normalised body.
    pub body: Value,
    /// SHA-256 of the canonical submitted body, in hex: distinguishes a repeated order from another
    /// one with its id.
    pub fingerprint: String,
    /// Initial status.
    pub status: String,
    /// The request's idempotency key, bound to this body for ever.
    pub idempotency_key: Option<String>,
    /// Its first event.
    pub event: NewEvent,
}

/// The result of accepting an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// Written.
    New(Order),
    /// The same order was accepted before.
    Duplicate(Order),
    /// Another order has this id.
    Conflict,
    /// The idempotency key was used with a different body.
    KeyReused,
}

/// A request to cancel an order.
#[derive(Debug, Clone)]
pub struct NewCancel {
    /// The order.
    pub order_id: String,
    /// `order.cancelled`, written with the new status or not at all.
    pub event: NewEvent,
}

/// The result of a cancellation request.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// Its new status and its event were written.
    Begun(Order),
    /// It is cancelled, or being cancelled: nothing was changed.
    Already(Order),
    /// Its status does not allow a cancellation: nothing was changed.
    Refused(Order),
    /// No order has this id.
    NotFound,
}

/// An order as stored.
///
/// ```no_run
/// # async fn example(app: &postrider::App) -> anyhow::Result<()> {
/// let order = app.submit(serde_json::json!({ "order_id": "1", "items": ["Book"] })).await?;
/// let order = order.into_order();
/// println!("{} is {} since {} ms", order.id, order.status, order.updated_at_ms);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The id.
    pub id: String,
    /// The customer.
    pub customer: Option<String>,
    /// Status by the configured transitions.
    pub status: String,
    /// The normalised body.
    pub body: Value,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub updated_at_ms: u64,
}

/// Filters of the order list, newest first.
#[derive(Debug, Clone, Default)]
pub struct OrderFilter {
    /// Only this status.
    pub status: Option<String>,
    /// Only this customer.
    pub customer: Option<String>,
    /// Only orders with an open delivery or an open dead letter at this stage.
    pub stage: Option<String>,
    /// Only those created then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only those created before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// Cursor: position (`rowid`-like, growing) of the last order seen; newest first.
    pub before: Option<i64>,
    /// Page size.
    pub limit: u32,
}

/// What one batch of retention deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Orders, with their events, deliveries and state.
    pub orders: u64,
    /// Events without an order.
    pub events: u64,
}
