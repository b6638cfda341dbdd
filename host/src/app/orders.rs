//! Orders: submit, show, cancel. The store decides under the order's lock; what it writes is
//! durable before a method returns, and goes to the relay afterwards.

use serde::Serialize;
use serde_json::Value;

use super::{App, Draft};
use crate::domain::event::{ORDER_CANCELLED, ORDER_CREATED, without_nul};
use crate::domain::field_error::FieldError;
use crate::domain::order::{ParsedOrder, is_id, parse_order};
use crate::domain::trace_context::TraceContext;
#[cfg(feature = "postgres")]
use crate::store::postgres::WithinError;
use crate::store::{
    Accepted, Cancelled, DeliveryRecord, NewCancel, NewOrder, Order, Page, StoreError,
};

/// An order that is durable.
///
/// ```no_run
/// # async fn example(app: &postrider::App, order: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::Submitted;
///
/// match app.submit(order).await? {
///     Submitted::New(order) => println!("accepted order {}", order.id),
///     Submitted::Duplicate(order) => println!("order {} was accepted before", order.id),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "tells a new order from one that was submitted before"]
pub enum Submitted {
    /// It was written now, and its first event is on the way to the stages.
    New(Order),
    /// The same order was submitted before; it is returned as stored, and nothing was written.
    Duplicate(Order),
}

impl Submitted {
    /// The order, new or not.
    pub fn into_order(self) -> Order {
        match self {
            Self::New(order) | Self::Duplicate(order) => order,
        }
    }
}

/// Why an order was not accepted. Nothing was written.
///
/// ```no_run
/// # async fn example(app: &postrider::App, order: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::SubmitError;
///
/// match app.submit(order).await {
///     Ok(submitted) => println!("order {}", submitted.into_order().id),
///     Err(SubmitError::Conflict { id }) => eprintln!("order {id} exists with a different body"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The body is not a valid order; every problem of it.
    #[error("invalid order: {}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// An order with this id and a different body exists.
    #[error("order `{id}` exists with a different body")]
    Conflict {
        /// The order's id.
        id: String,
    },
    /// The broker accepts no event of this size.
    #[error("the order has {bytes} bytes; the broker accepts at most {limit}")]
    TooLarge {
        /// Bytes of the order in JSON.
        bytes: usize,
        /// The most that the broker accepts, as far as this host knows.
        limit: usize,
    },
    /// The idempotency key was used with a different request.
    #[error("idempotency key reused with a different request")]
    KeyReused,
    /// The value cannot be written as JSON.
    #[error("the order cannot be written as JSON")]
    Serialize(#[from] serde_json::Error),
    /// The transaction is not on the host's database: another server or database, or the host keeps
    /// its data elsewhere.
    #[error("the transaction is not on the Postgres database of this host")]
    OtherDatabase,
    /// The store failed. Whether the order was written is not known: submit it again with the same
    /// id or idempotency key.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn summary(problems: &[FieldError]) -> String {
    let problems: Vec<String> =
        problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.detail)).collect();
    problems.join("; ")
}

/// What accompanies the body of an order.
///
/// ```no_run
/// # async fn example(app: &postrider::App, order: serde_json::Value) -> anyhow::Result<()> {
/// use postrider::Submission;
///
/// let key = Some("checkout-7".to_owned());
/// let submission = Submission { idempotency_key: key, ..Submission::default() };
/// let order = app.submit_with(order, submission).await?.into_order();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Submission {
    /// The trace that the order's events continue.
    pub trace: TraceContext,
    /// Names the request: repeated with the same body it is a duplicate, with another body an
    /// error. Keys never expire.
    pub idempotency_key: Option<String>,
    /// When its first event is delivered, milliseconds since 1970-01-01 UTC; none: immediately.
    pub due_at_ms: Option<u64>,
}

impl Default for Submission {
    /// No key, due immediately, in a trace of its own.
    fn default() -> Self {
        Self { trace: TraceContext::begin(), idempotency_key: None, due_at_ms: None }
    }
}

/// An order with its deliveries.
///
/// ```
/// use postrider::OrderHistory;
///
/// fn print(history: &OrderHistory) {
///     println!("order {} is {}", history.order.id, history.order.status);
///     println!("{} deliveries", history.deliveries.len());
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OrderHistory {
    /// The order.
    pub order: Order,
    /// Its deliveries, by the position of their events in the log.
    pub deliveries: Vec<DeliveryRecord>,
    /// The position after which [`App::history`] continues; none at the end.
    pub next: Option<i64>,
}

impl App {
    /// The status of an order that was just accepted.
    pub fn initial_status(&self) -> &str {
        &self.initial_status
    }

    /// Accepts an order, as `POST /orders` does: when it returns, the order is durable.
    ///
    /// # Errors
    /// See [`SubmitError`]; a conflict with a stored order is one of them.
    pub async fn submit(&self, order: impl Serialize) -> Result<Submitted, SubmitError> {
        self.submit_with(order, Submission::default()).await
    }

    /// Accepts an order with an idempotency key, a schedule or a trace of its caller.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit_with(
        &self,
        order: impl Serialize,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        self.accept(serde_json::to_value(order)?, submission).await
    }

    pub(crate) async fn accept(
        &self,
        order: Value,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let order = self.new_order(order, submission)?;
        let id = order.id.clone();
        let (accepted, rows) = self.services.store.accept_order(order).await?;
        self.services.relay.enqueue(rows);
        submitted(id, accepted)
    }

    /// Accepts an order inside a transaction of the embedding program, on the database of the host:
    /// the order, its event and its deliveries are written by the transaction, with everything else
    /// that it writes. A host sends the event to the stages within a tenth of a second of the
    /// commit; nothing was submitted if the transaction rolls back.
    ///
    /// After an error the transaction can still be used. Commit it soon: until it ends, live event
    /// streams wait for it, and whoever submits an order of the same id waits.
    ///
    /// ```no_run
    /// # async fn example(app: &postrider::App, pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use postrider::Submission;
    ///
    /// let mut transaction = pool.begin().await?;
    /// sqlx::query("UPDATE carts SET state = 'ordered' WHERE id = 7").execute(&mut *transaction).await?;
    /// let order = serde_json::json!({ "order_id": "cart-7", "items": ["Book"] });
    /// let _ = app.submit_within(&mut transaction, order, Submission::default()).await?;
    /// transaction.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`SubmitError`].
    #[cfg(feature = "postgres")]
    pub async fn submit_within(
        &self,
        transaction: &mut sqlx::PgTransaction<'_>,
        order: impl Serialize,
        submission: Submission,
    ) -> Result<Submitted, SubmitError> {
        let order = self.new_order(serde_json::to_value(order)?, submission)?;
        let id = order.id.clone();
        let store = self.services.store.postgres().ok_or(SubmitError::OtherDatabase)?;
        match store.accept_order_within(transaction, order).await {
            Ok(accepted) => submitted(id, accepted),
            Err(WithinError::OtherDatabase) => Err(SubmitError::OtherDatabase),
            Err(WithinError::Store(error)) => Err(error.into()),
        }
    }

    fn new_order(&self, order: Value, submission: Submission) -> Result<NewOrder, SubmitError> {
        let Submission { trace, idempotency_key, due_at_ms } = submission;
        let order = parse_order(order, idempotency_key.as_deref()).map_err(SubmitError::Invalid)?;
        let ParsedOrder { id, customer, body, fingerprint } = order;
        let data = body.to_string();
        if let Some(limit) = self.exceeded_limit(data.len()) {
            return Err(SubmitError::TooLarge { bytes: data.len(), limit });
        }
        let event = self.new_event(Draft {
            id: format!("order-{id}"),
            event_type: ORDER_CREATED,
            subject: &id,
            data: data.into(),
            order_id: Some(id.clone()),
            trace,
            due_at_ms,
        });
        Ok(NewOrder {
            id,
            customer,
            body,
            fingerprint,
            status: self.initial_status.clone(),
            idempotency_key,
            event,
        })
    }

    /// The status of an order; none when there is no such order.
    pub async fn status(&self, id: &str) -> Result<Option<String>, StoreError> {
        Ok(self.services.store.order(id).await?.map(|order| order.status))
    }

    /// Returns the order with the deliveries of `limit` events after the position `after` (0: from
    /// the first one); none when there is no such order.
    pub async fn history(
        &self,
        id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Option<OrderHistory>, StoreError> {
        let Some(order) = self.services.store.order(id).await? else {
            return Ok(None);
        };
        let Page { items, next } =
            self.services.store.order_deliveries(id, after, limit.max(1)).await?;
        Ok(Some(OrderHistory { order, deliveries: items, next }))
    }

    /// Cancels an order. When it returns, no stage processes the order further, and the
    /// compensations are on the way. Repeated, it changes nothing.
    pub async fn cancel(
        &self,
        id: &str,
        reason: Option<String>,
        trace: TraceContext,
    ) -> Result<Cancelled, StoreError> {
        if !is_id(id) {
            return Ok(Cancelled::NotFound);
        }
        let reason = reason.map(without_nul);
        let event = self.new_event(Draft {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: ORDER_CANCELLED,
            subject: id,
            data: serde_json::json!({ "order_id": id, "reason": reason }).to_string().into(),
            order_id: Some(id.to_owned()),
            trace,
            due_at_ms: None,
        });
        let (cancelled, rows) =
            self.services.store.cancel_order(NewCancel { order_id: id.to_owned(), event }).await?;
        self.services.relay.enqueue(rows);
        Ok(cancelled)
    }

    /// Whether an order is cancelled and every compensation has completed.
    pub fn is_cancelled(&self, order: &Order) -> bool {
        self.status.cancelling().is_some() && order.status == self.status.cancel.done
    }

    /// Explains why an order cannot be cancelled, for people.
    pub fn why_not_cancelled(&self, order: &Order) -> String {
        let Order { id, status, .. } = order;
        match self
            .status
            .transitions
            .get(ORDER_CANCELLED)
            .map(|transition| transition.from.as_deref())
        {
            None => {
                "orders cannot be cancelled: `orders.status.transitions` has no `order.cancelled`"
                    .to_owned()
            }
            Some(Some(from)) => format!(
                "order `{id}` is `{status}`; it can be cancelled while it is {}",
                one_of(from)
            ),
            Some(None) => format!("order `{id}` is `{status}`, which is final"),
        }
    }
}

fn submitted(id: String, accepted: Accepted) -> Result<Submitted, SubmitError> {
    match accepted {
        Accepted::New(order) => Ok(Submitted::New(order)),
        Accepted::Duplicate(order) => Ok(Submitted::Duplicate(order)),
        Accepted::Conflict => Err(SubmitError::Conflict { id }),
        Accepted::KeyReused => Err(SubmitError::KeyReused),
    }
}

fn one_of(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, before @ [_, ..])) => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    }
}
