//! Products: stock comes in as an event, and is read from the state of the stage that keeps it.

use serde_json::Value;

use super::{App, Draft};
use crate::domain::event::PRODUCT_STOCKED;
use crate::domain::stock::ParsedStock;
use crate::domain::trace_context::TraceContext;
use crate::store::{AcceptedEvent, StoreError};

/// Why stock was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StockError {
    /// The idempotency key was used with a different request.
    #[error("idempotency key reused with a different request")]
    KeyReused,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    /// Announces stock that arrived. Repeated under the same `idempotency_key` it counts once.
    ///
    /// # Errors
    /// See `StockError`.
    pub async fn stock(
        &self,
        stock: ParsedStock,
        idempotency_key: Option<&str>,
        trace: TraceContext,
    ) -> Result<(), StockError> {
        let id = idempotency_key
            .map_or_else(|| uuid::Uuid::now_v7().to_string(), |key| format!("stock-{key}"));
        let event = self.new_event(Draft {
            id,
            event_type: PRODUCT_STOCKED,
            subject: &stock.sku,
            data: stock.body.to_string().into(),
            subject_key: None,
            customer: None,
            trace,
            due_at_ms: None,
        });
        match self.services.publish(event).await? {
            AcceptedEvent::New | AcceptedEvent::Duplicate => Ok(()),
            AcceptedEvent::Conflict => Err(StockError::KeyReused),
        }
    }

    /// Returns a product as its stage keeps it (`products.stage`, `products.prefix`); none when it
    /// has never been stocked or ordered.
    pub async fn product(&self, sku: &str) -> Result<Option<Value>, StoreError> {
        let key = format!("{}{sku}", self.products_prefix);
        let row = self.services.store.state_get(&self.products_stage, &key).await?;
        Ok(row.and_then(|row| row.value).map(|bytes| as_json(&bytes)))
    }

    /// Returns at most `limit` products, sorted by SKU, after the SKU `after` (empty: from the
    /// first).
    pub async fn products(&self, after: &str, limit: u32) -> Result<Vec<Value>, StoreError> {
        let prefix = &self.products_prefix;
        let after = if after.is_empty() { String::new() } else { format!("{prefix}{after}") };
        let keys =
            self.services.store.state_keys(&self.products_stage, prefix, &after, limit).await?;
        let mut products = Vec::with_capacity(keys.len());
        for key in keys {
            products.extend(self.product(key.strip_prefix(prefix).unwrap_or(&key)).await?);
        }
        Ok(products)
    }
}

/// JSON as it is; anything else as text.
pub fn as_json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}
