//! Admission: so many requests at once, and no queue behind them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::problem::{Answer, Problem};

pub(super) async fn admit(
    State(slots): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let Ok(_slot) = slots.try_acquire() else {
        return Err(Problem::unavailable("too many requests are under way; try again"));
    };
    Ok(next.run(request).await)
}
