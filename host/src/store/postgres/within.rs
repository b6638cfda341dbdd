//! Operations inside a transaction of the embedding program: what they write commits with it, or
//! not at all.
//!
//! Guarantee: the transaction takes its number and the log's lock like any other, so no reader
//! passes its events before it ends: while it is open, live streams wait. Any host sends its outbox
//! rows once they are visible. It is used inside a savepoint and with settings that are restored, so
//! a failure leaves it as it was. Bounds: `store.timeout_ms` for each statement,
//! [`CONFLICTS_MAX`] attempts.

use sqlx::{PgConnection, PgTransaction};

use super::PostgresStore;
use super::committer::settle;
use super::session::Scope;
use super::sql::{TransactionError, script};
use super::transaction::join;
use crate::store::transaction::{Op, Operation, Pending, ReadSet, Reading, Request};
use crate::store::{Accepted, NewSubject, StoreError, sealed};

/// Attempts after conflicts with another transaction. Its isolation may let none succeed.
const CONFLICTS_MAX: usize = 3;

/// Why an operation was not carried out; the transaction can still be used.
#[derive(Debug)]
pub enum WithinError {
    /// The namespace's tables are not in the database of the transaction.
    OtherDatabase,
    /// Anything else.
    Store(StoreError),
}

impl From<TransactionError> for WithinError {
    fn from(error: TransactionError) -> Self {
        Self::Store(error.into())
    }
}

impl PostgresStore {
    /// Writes a subject as [`Store::accept_subject`](crate::store::Store::accept_subject) does, in a
    /// transaction of the embedding program.
    pub async fn accept_subject_within(
        &self,
        transaction: &mut PgTransaction<'_>,
        subject: NewSubject,
    ) -> Result<Accepted, WithinError> {
        let (accepted, _) = self
            .run_within(transaction, sealed::give_key(&self.context.encryption, subject))
            .await?;
        Ok(accepted)
    }

    async fn run_within<O: Operation>(
        &self,
        conn: &mut PgConnection,
        operation: O,
    ) -> Result<O::Reply, WithinError>
    where
        Op: From<Request<O>>,
    {
        let (request, reply) = Request::new(operation, None);
        let mut op = Op::from(request);
        for _ in 0..CONFLICTS_MAX {
            run(conn, "SAVEPOINT postrider").await?;
            match self.attempt_within(conn, op.pending()).await {
                Ok(true) => {
                    run(conn, "RELEASE SAVEPOINT postrider").await?;
                    op.respond(Ok(()));
                    let unanswered = |_| WithinError::Store(StoreError::unanswered());
                    return reply.await.map_err(unanswered)?.map_err(WithinError::Store);
                }
                refused => {
                    let sql = "ROLLBACK TO SAVEPOINT postrider; RELEASE SAVEPOINT postrider";
                    run(conn, sql).await?;
                    match refused {
                        Ok(_) => return Err(WithinError::OtherDatabase),
                        Err(TransactionError::Conflict) => {}
                        Err(TransactionError::Store(error)) => {
                            return Err(WithinError::Store(error));
                        }
                    }
                }
            }
        }
        Err(TransactionError::Conflict.into())
    }

    /// Decides and writes; false when the tables are not there.
    async fn attempt_within(
        &self,
        conn: &mut PgConnection,
        operation: Pending<'_>,
    ) -> Result<bool, TransactionError> {
        let context = &*self.context;
        let before = context.within.borrow(conn, Scope::Transaction).await?;
        let Some(started) = join(conn, context).await? else { return Ok(false) };
        let group = vec![operation];
        let read_set = ReadSet::of(&group, Reading::Complete);
        settle(conn, context, started, read_set, |loaded, write_set| {
            for operation in group {
                operation.decide(loaded, write_set, &context.kinds);
            }
        })
        .await?;
        before.restore(conn).await?;
        Ok(true)
    }
}

async fn run(conn: &mut PgConnection, sql: &'static str) -> Result<(), TransactionError> {
    Ok(script(conn, sql).await.map(drop)?)
}
