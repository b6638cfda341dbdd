//! Operations of a commit group, each paired with the type of its reply.
//!
//! A [`Request`] holds an operation, the place for its reply and the channel to its caller, so the
//! compiler rejects a reply of another type. The reply is sent after the commit.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::apply;
use super::cancel;
use super::read_set::{Loaded, ReadSet};
use super::write_set::WriteSet;
use crate::domain::json;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{
    Accepted, AcceptedEvent, Batch, Cancelled, Commit, NewCancel, NewEvent, NewSubject, OutboxRow,
    Settlement, StoreError,
};

/// Something that a store's writer does for a caller.
pub(crate) trait Operation: Send + Sync + 'static {
    /// What the caller receives after the commit.
    type Reply: Send + 'static;

    /// About how many bytes of events and state it holds; none when they do not matter.
    fn bytes(&self) -> u64 {
        0
    }
}

impl Operation for NewSubject {
    type Reply = (Accepted, Vec<OutboxRow>);

    fn bytes(&self) -> u64 {
        json::memory_bytes(&self.body) + self.event.envelope.bytes()
    }
}

impl Operation for NewEvent {
    type Reply = (AcceptedEvent, Vec<OutboxRow>);

    fn bytes(&self) -> u64 {
        self.envelope.bytes()
    }
}

impl Operation for NewCancel {
    type Reply = (Cancelled, Vec<OutboxRow>);
}

impl Operation for Batch {
    type Reply = Commit;

    fn bytes(&self) -> u64 {
        let written =
            self.writes.iter().filter_map(|(_, value)| Some(value.as_ref()?.len() as u64));
        self.settlements.iter().map(Settlement::bytes).sum::<u64>() + written.sum::<u64>()
    }
}

/// Ids of outbox rows whose sending was confirmed.
#[derive(Debug)]
pub(crate) struct SentRows(pub(crate) Vec<i64>);

impl Operation for SentRows {
    type Reply = ();
}

/// The caller's end of a request.
pub(crate) type ReplyReceiver<O> = oneshot::Receiver<Result<<O as Operation>::Reply, StoreError>>;

/// A queued operation.
pub(crate) struct Request<O: Operation> {
    operation: O,
    /// Set when the operation is decided, again on every attempt of its group.
    reply: Option<O::Reply>,
    caller: oneshot::Sender<Result<O::Reply, StoreError>>,
    /// Its part of the bytes that may wait for the writer.
    _reserved: Option<OwnedSemaphorePermit>,
}

impl<O: Operation> Request<O> {
    pub(crate) fn new(
        operation: O,
        reserved: Option<OwnedSemaphorePermit>,
    ) -> (Self, ReplyReceiver<O>) {
        let (caller, receiver) = oneshot::channel();
        (Self { operation, reply: None, caller, _reserved: reserved }, receiver)
    }

    /// The operation, and the place for its reply.
    pub(crate) fn parts(&mut self) -> (&O, &mut Option<O::Reply>) {
        (&self.operation, &mut self.reply)
    }

    /// Answers the caller. One that stopped waiting is ignored: what was written stays written.
    pub(crate) fn respond(self, committed: Result<(), StoreError>) {
        let result = match committed {
            Ok(()) => self.reply.map(Ok),
            Err(error) => Some(Err(error)),
        };
        // Without a reply the channel closes, which the caller reads as an unavailable store.
        if let Some(result) = result {
            let _ = self.caller.send(result);
        }
    }
}

/// The frequent operations, which share their statements with the whole group.
pub(crate) enum Op {
    Subject(Box<Request<NewSubject>>),
    Event(Box<Request<NewEvent>>),
    Cancel(Box<Request<NewCancel>>),
    Commit(Request<Batch>),
    Sent(Request<SentRows>),
}

macro_rules! op_from {
    ($($operation:ident => $request:ident -> $op:expr),* $(,)?) => {
        $( impl From<Request<$operation>> for Op {
            fn from($request: Request<$operation>) -> Self {
                $op
            }
        } )*
    };
}

op_from! {
    NewSubject => request -> Self::Subject(Box::new(request)),
    NewEvent => request -> Self::Event(Box::new(request)),
    NewCancel => request -> Self::Cancel(Box::new(request)),
    Batch => request -> Self::Commit(request),
    SentRows => request -> Self::Sent(request),
}

impl Op {
    /// The operation for one attempt of its group.
    pub(crate) fn pending(&mut self) -> Pending<'_> {
        match self {
            Self::Subject(request) => {
                let (subject, reply) = request.parts();
                Pending::Subject(subject, reply)
            }
            Self::Event(request) => {
                let (event, reply) = request.parts();
                Pending::Event(event, reply)
            }
            Self::Cancel(request) => {
                let (cancel, reply) = request.parts();
                Pending::Cancel(cancel, reply)
            }
            Self::Commit(request) => {
                let (batch, reply) = request.parts();
                Pending::Commit(batch, reply)
            }
            Self::Sent(request) => {
                let (sent, reply) = request.parts();
                Pending::Sent(sent, reply)
            }
        }
    }

    /// Answers the caller, see [`Request::respond`].
    pub(crate) fn respond(self, committed: Result<(), StoreError>) {
        match self {
            Self::Subject(request) => request.respond(committed),
            Self::Event(request) => request.respond(committed),
            Self::Cancel(request) => request.respond(committed),
            Self::Commit(request) => request.respond(committed),
            Self::Sent(request) => request.respond(committed),
        }
    }
}

type Slot<'a, O> = &'a mut Option<<O as Operation>::Reply>;

/// An operation of a group that is being decided, and the place for its reply.
pub(crate) enum Pending<'a> {
    Subject(&'a NewSubject, Slot<'a, NewSubject>),
    Event(&'a NewEvent, Slot<'a, NewEvent>),
    Cancel(&'a NewCancel, Slot<'a, NewCancel>),
    Commit(&'a Batch, Slot<'a, Batch>),
    Sent(&'a SentRows, Slot<'a, SentRows>),
}

impl<'a> Pending<'a> {
    /// Adds what the operation needs to know.
    pub(crate) fn read(&self, read_set: &mut ReadSet<'a>) {
        match self {
            Self::Subject(subject, _) => read_set.subject(subject),
            Self::Event(event, _) => read_set.event(event),
            Self::Cancel(cancel, _) => read_set.cancel(cancel),
            Self::Commit(batch, _) => read_set.batch(batch),
            Self::Sent(..) => {}
        }
    }

    /// Decides the operation: its rows go into `write_set`, and what they change into `loaded`, so
    /// the second of two operations on one row sees the first. They wait at the same time, so any
    /// subject is correct.
    pub(crate) fn decide(
        self,
        loaded: &mut Loaded<'a>,
        write_set: &mut WriteSet<'a>,
        kinds: &SubjectKinds,
    ) {
        match self {
            Self::Subject(subject, reply) => {
                *reply = Some(apply::subject(loaded, write_set, subject));
            }
            Self::Event(event, reply) => *reply = Some(apply::event(loaded, write_set, event)),
            Self::Cancel(cancel, reply) => {
                *reply = Some(cancel::subject(loaded, write_set, kinds, cancel));
            }
            Self::Commit(batch, reply) => {
                *reply = Some(apply::batch(loaded, write_set, kinds, batch));
            }
            Self::Sent(SentRows(ids), reply) => {
                write_set.delete_outbox_rows(ids);
                *reply = Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_is_sent_only_after_its_group_committed() {
        let unavailable = || StoreError::Unavailable("disk full".to_owned());
        for committed in [Ok(()), Err(unavailable())] {
            let (mut request, receiver) = Request::new(SentRows(vec![1]), None);
            *request.parts().1 = Some(());
            request.respond(committed.clone());
            assert_eq!(receiver.await.unwrap().is_ok(), committed.is_ok());
        }
        let (undecided, receiver) = Request::new(SentRows(vec![1]), None);
        undecided.respond(Ok(()));
        assert!(receiver.await.is_err(), "an undecided operation is not answered");
    }
}
