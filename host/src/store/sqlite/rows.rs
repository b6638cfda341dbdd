//! Rows as they are written, one multi-row statement shape per table.
//!
//! Nothing is decided here, these functions only bind. `OR FAIL`: a group that cannot be written is rolled back as
//! a whole, so `SQLite` need not be able to undo a single statement.

use super::sql::{Shape, Statement, json, push};
use crate::domain::encryption::Encryption;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::DeliveryStatus;
use crate::store::decode::status_name;
use crate::store::transaction::{
    AttemptRow, DeadLetterRow, DeliveryRow, EventRow, OpenDeliveryRow, OutboxInsert, RecordingRow,
    StateWrite, SubjectRow,
};

fn list(items: &[&str]) -> Option<String> {
    (!items.is_empty()).then(|| json(items))
}

pub(super) fn subjects<'r>(
    rows: &'r [(i64, &SubjectRow<'_>)],
    encryption: &'r Encryption,
    kinds: &'r SubjectKinds,
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO subjects (pos, key, kind, customer, status, body, fingerprint, \
               created_ms, updated_ms, idempotency_key, owner, finished_status, finished_ms, \
               data_key)",
        columns: 14,
        tail: "",
    };
    shape.statements(rows, move |(pos, row), args| {
        let SubjectRow(subject) = row;
        push(args, *pos);
        push(args, subject.key.as_str());
        push(args, subject.key.kind());
        push(args, subject.customer.as_deref());
        push(args, subject.status.as_str());
        push(args, row.stored_body(encryption));
        push(args, subject.fingerprint.as_str());
        push(args, now_ms as i64);
        push(args, now_ms as i64);
        push(args, subject.idempotency_key.as_deref());
        push(args, subject.owner.as_deref());
        let finished = kinds.is_finished(&subject.key, &subject.status);
        push(args, finished.then_some(subject.status.as_str()));
        push(args, finished.then_some(now_ms as i64));
        push(args, row.data_key());
    })
}

pub(super) fn events<'r>(
    rows: &'r [EventRow<'_>],
    encryption: &'r Encryption,
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO events (seq, id, source, type, subject, time_ms, content_type, data, \
               attributes, subject_key, \
               correlation_id, cause_source, cause_id, hops, expires_ms, stage, digest, routed_to, \
               logged_ms, due_ms, unrouted_ms)",
        columns: 21,
        tail: "ON CONFLICT DO NOTHING",
    };
    shape.statements(rows, move |row, args| {
        let (envelope, event) = (row.envelope, &row.envelope.event);
        push(args, row.seq);
        push(args, event.id.as_str());
        push(args, event.source.as_str());
        push(args, event.event_type.as_str());
        push(args, event.subject.as_str());
        push(args, event.time_ms as i64);
        push(args, event.content_type.as_str());
        push(args, &*row.stored_data(encryption));
        push(args, (!event.attributes.is_empty()).then(|| json(&event.attributes)));
        push(args, envelope.subject_key.as_deref());
        push(args, envelope.correlation_id.as_str());
        push(args, envelope.cause.as_ref().map(|cause| cause.source.as_str()));
        push(args, envelope.cause.as_ref().map(|cause| cause.id.as_str()));
        push(args, i64::from(envelope.hops));
        push(args, envelope.expires_at_ms as i64);
        push(args, row.producer.map(|producer| producer.0));
        push(args, row.producer.map(|producer| producer.1));
        push(args, list(&row.routed_to));
        push(args, now_ms as i64);
        push(args, row.due_ms.map(|due_ms| due_ms as i64));
        push(args, row.unrouted.then_some(now_ms as i64));
    })
}

pub(super) fn open_deliveries<'r>(
    rows: &'r [OpenDeliveryRow<'_>],
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO deliveries (event_seq, stage, round, attempt, status, created_ms, \
               queued_ms)",
        columns: 7,
        tail: "ON CONFLICT DO NOTHING",
    };
    shape.statements(rows, move |row, args| {
        push(args, row.seq);
        push(args, &**row.stage);
        push(args, 1_i64);
        push(args, 1_i64);
        push(args, status_name(DeliveryStatus::Open));
        push(args, now_ms as i64);
        push(args, row.queued_ms as i64);
    })
}

pub(super) fn deliveries<'r>(rows: &'r [DeliveryRow<'_>]) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO deliveries (event_seq, stage, round, attempt, status, version, digest, \
               host, duration_us, emitted, \
               created_ms, queued_ms, settled_ms)",
        columns: 13,
        tail: "ON CONFLICT (event_seq, stage) DO UPDATE SET round = excluded.round, attempt = \
               excluded.attempt, \
               status = excluded.status, version = excluded.version, digest = excluded.digest, \
               host = excluded.host, duration_us = excluded.duration_us, \
               emitted = excluded.emitted, queued_ms = excluded.queued_ms, \
               settled_ms = excluded.settled_ms",
    };
    shape.statements(rows, move |row, args| {
        let settled = row.settled.as_ref();
        push(args, row.seq);
        push(args, row.stage);
        push(args, i64::from(row.round));
        push(args, i64::from(row.attempt));
        push(args, status_name(row.status));
        push(args, settled.map(|by| by.version));
        push(args, settled.map(|by| by.digest));
        push(args, row.host);
        push(args, settled.map(|by| by.duration_us as i64));
        push(args, list(&row.emitted));
        push(args, row.created_ms as i64);
        push(args, row.queued_ms as i64);
        push(args, settled.map(|by| by.at_ms as i64));
    })
}

pub(super) fn outbox<'r>(
    rows: &'r [OutboxInsert],
    host: &'r str,
    lease_until_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO outbox (id, event_seq, due_ms, owner, lease_until_ms, stage, round, \
               attempt)",
        columns: 8,
        tail: "",
    };
    shape.statements(rows, move |row, args| {
        let direct = row.direct.as_ref();
        push(args, row.id);
        push(args, row.seq);
        push(args, row.due_ms as i64);
        push(args, row.leased.then_some(host));
        push(args, row.leased.then_some(lease_until_ms as i64));
        push(args, direct.map(|direct| &*direct.stage));
        push(args, direct.map(|direct| i64::from(direct.round)));
        push(args, direct.map(|direct| i64::from(direct.attempt)));
    })
}

pub(super) fn state<'r>(
    rows: &'r [StateWrite<'_>],
    encryption: &'r Encryption,
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO state (stage, key, value, version, removed_ms)",
        columns: 5,
        tail: "ON CONFLICT (stage, key) DO UPDATE SET value = excluded.value, version = \
               excluded.version, removed_ms = excluded.removed_ms",
    };
    shape.statements(rows, move |row, args| {
        push(args, row.stage);
        push(args, row.key);
        push(args, row.stored_value(encryption).as_deref());
        push(args, row.version);
        push(args, row.value.is_none().then_some(now_ms as i64));
    })
}

pub(super) fn attempts<'r>(
    rows: &'r [AttemptRow<'_>],
    encryption: &'r Encryption,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO attempts (event_seq, stage, round, attempt, code, message, backtrace, \
               digest, duration_us, at_ms, host)",
        columns: 11,
        tail: "ON CONFLICT DO NOTHING",
    };
    shape.statements(rows, move |row, args| {
        let failure = row.failure;
        push(args, row.seq);
        push(args, row.stage);
        push(args, i64::from(failure.round));
        push(args, i64::from(failure.attempt));
        push(args, failure.code.as_str());
        push(args, &*row.stored_message(encryption));
        push(args, row.stored_backtrace(encryption).as_deref());
        push(args, failure.digest.as_str());
        push(args, failure.duration_us as i64);
        push(args, failure.at_ms as i64);
        push(args, failure.host.as_deref());
    })
}

pub(super) fn recordings<'r>(
    rows: &'r [RecordingRow<'_>],
    encryption: &'r Encryption,
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO recordings (stage, settled_ms, event_seq, body)",
        columns: 4,
        tail: "ON CONFLICT DO NOTHING",
    };
    shape.statements(rows, move |row, args| {
        push(args, row.stage);
        push(args, now_ms as i64);
        push(args, row.seq);
        push(args, &*row.stored_body(encryption));
    })
}

pub(super) fn dead_letters<'r>(
    rows: &'r [DeadLetterRow<'_>],
    encryption: &'r Encryption,
    now_ms: u64,
) -> impl Iterator<Item = Statement> + 'r {
    let shape = Shape {
        head: "INSERT OR FAIL INTO dead_letters (event_seq, stage, round, code, message, digest, \
               fingerprint, group_id, dead_lettered_ms, status)",
        columns: 10,
        tail: "",
    };
    shape.statements(rows, move |row, args| {
        push(args, row.seq);
        push(args, row.stage);
        push(args, i64::from(row.round));
        push(args, row.code);
        push(args, &*row.stored_message(encryption));
        push(args, row.digest);
        push(args, &*row.stored_fingerprint(encryption));
        push(args, row.fingerprint.group.as_str());
        push(args, now_ms as i64);
        push(args, "open");
    })
}
