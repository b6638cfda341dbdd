//! What a commit group writes: decided here once, for every database.
//!
//! A store merges the operations that wait at the same time into one transaction. The database's
//! own module reads what the group needs ([`ReadSet`] → [`Loaded`]), [`Pending::decide`] turns each
//! operation into rows ([`WriteSet`]) and a reply, and the database's module claims the rows'
//! positions in the log ([`NumberedWriteSet`]) and writes them, in a constant number of statements
//! whatever the size of the group. Nothing in here does I/O.

mod apply;
mod cancel;
mod numbered;
mod operation;
mod queue;
mod read_set;
mod rows;
mod write_set;

pub(crate) use self::apply::batch as decide_batch;
pub(crate) use self::numbered::{NewStatus, NumberedWriteSet, StoredSubject};
pub(crate) use self::operation::{Op, Operation, Pending, Request, SentRows};
pub(crate) use self::queue::WriterQueue;
pub(crate) use self::read_set::{
    DeliveryLookup, DeliveryState, KnownSubject, Loaded, LoadedStatus, ReadSet, Reading, lookup,
};
pub(crate) use self::rows::{
    AttemptRow, DeadLetterRow, DeliveryRow, EventRow, OpenDeliveryRow, OutboxInsert, RecordingRow,
    StateWrite, SubjectRow,
};
pub(crate) use self::write_set::{
    IMMEDIATELY, Numbers, Sender, SubjectProgress, TransactionTime, WriteSet,
};
