//! Operations that run one at a time on the writer's connection, each paired with its reply.
//!
//! An operation is a struct with its inputs; the module that holds its statements implements
//! [`SingleOperation`] for it.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::{Context, audit, write};
use crate::store::transaction::{self, Loaded, Operation, Request, WriteSet};
use crate::store::{AuditEntry, StoreError};

/// The writer's connection within a transaction.
pub(super) struct Writer<'w> {
    pub(super) conn: &'w mut SqliteConnection,
    pub(super) context: &'w mut Context,
    pub(super) now_ms: u64,
}

impl Writer<'_> {
    /// An empty write set.
    pub(super) fn write_set<'a>(&self) -> WriteSet<'a> {
        self.context.write_set(self.now_ms)
    }

    /// Records what an operator did, in the same transaction.
    pub(super) async fn audit(&mut self, entry: AuditEntry) -> Result<(), StoreError> {
        audit::append(self.conn, &self.context.host, self.now_ms, &[entry]).await
    }

    pub(super) async fn write(&mut self, write_set: WriteSet<'_>) -> Result<(), StoreError> {
        self.write_group(&Loaded::default(), write_set).await
    }

    /// Writes what was decided from `loaded`.
    pub(super) async fn write_group<'a>(
        &mut self,
        loaded: &Loaded<'a>,
        write_set: WriteSet<'a>,
    ) -> Result<(), StoreError> {
        write::write(self.conn, self.context, loaded, write_set).await
    }
}

/// An operation with statements of its own.
#[async_trait]
pub(super) trait SingleOperation: Operation {
    /// Whether its statements may change deliveries, events or subjects.
    const CHANGES_WORK: bool = true;

    async fn run(&self, writer: &mut Writer<'_>) -> Result<Self::Reply, StoreError>;
}

/// A queued [`SingleOperation`] of any type.
#[async_trait]
pub(super) trait SingleRequest: Send {
    /// Runs the operation and keeps its reply.
    async fn run(&mut self, writer: &mut Writer<'_>) -> Result<(), StoreError>;
    /// See [`SingleOperation::CHANGES_WORK`].
    fn changes_work(&self) -> bool;
    /// Answers the caller, see [`Request::respond`].
    fn respond(self: Box<Self>, committed: Result<(), StoreError>);
}

#[async_trait]
impl<O: SingleOperation> SingleRequest for Request<O> {
    async fn run(&mut self, writer: &mut Writer<'_>) -> Result<(), StoreError> {
        let (operation, reply) = self.parts();
        *reply = Some(operation.run(writer).await?);
        Ok(())
    }

    fn changes_work(&self) -> bool {
        O::CHANGES_WORK
    }

    fn respond(self: Box<Self>, committed: Result<(), StoreError>) {
        Request::respond(*self, committed);
    }
}

/// Something to write.
pub(super) enum Op {
    /// Shares its statements with the whole group.
    Shared(transaction::Op),
    Single(Box<dyn SingleRequest>),
}

impl Op {
    pub(super) fn respond(self, committed: Result<(), StoreError>) {
        match self {
            Self::Shared(op) => op.respond(committed),
            Self::Single(request) => request.respond(committed),
        }
    }
}
