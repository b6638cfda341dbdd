//! The audit log: who acts, and what was done.

use super::App;
use crate::domain::actor::Actor;
use crate::store::{AuditEntry, AuditFilter, AuditPage, StoreError};

tokio::task_local! {
    /// Who acts in the present task.
    static ACTOR: Actor;
}

/// Who acts: the actor of [`App::acting_as`], or else the program itself.
pub(crate) fn actor() -> Actor {
    ACTOR.try_with(Clone::clone).unwrap_or_else(|_| Actor::program())
}

impl App {
    /// Does `work` as someone: the audit log records that the actor did what `work` changes.
    ///
    /// ```no_run
    /// # async fn example(app: &postrider::App) -> anyhow::Result<()> {
    /// use postrider::{Actor, App, ChainControl};
    ///
    /// let ada = Actor::new("program", "program/ada");
    /// let stopped = App::acting_as(ada, app.stop_chain("the-first-event", None)).await?;
    /// assert!(matches!(stopped, ChainControl::Set(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acting_as<T>(actor: Actor, work: impl Future<Output = T>) -> T {
        ACTOR.scope(actor, work).await
    }

    /// Returns a page of the audit log, oldest record first.
    pub(crate) async fn audit_log(&self, filter: AuditFilter) -> Result<AuditPage, StoreError> {
        self.services.store.audit_records(filter).await
    }

    /// Records what no transaction of the store does. Without a record, it was done nevertheless.
    pub(super) async fn record(&self, entry: AuditEntry) {
        let (action, object) = (entry.action, entry.object.clone());
        if let Err(error) = self.services.store.audit(entry).await {
            tracing::error!(%error, action, object, "what an operator did could not be recorded");
        }
    }
}
