//! Rows as they are written, one multi-row statement shape per table.
//!
//! Nothing is decided here, these functions only bind. `OR FAIL`: a group that cannot be written is rolled back as
//! a whole, so `SQLite` need not be able to undo a single statement.

use super::sql::{Shape, Statement, json};
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
        args.push(*pos);
        args.text(subject.key.as_str());
        args.text(subject.key.kind());
        args.text(subject.customer.as_deref());
        args.text(subject.status.as_str());
        args.push(row.stored_body(encryption));
        args.text(subject.fingerprint.as_str());
        args.push(now_ms as i64);
        args.push(now_ms as i64);
        args.text(subject.idempotency_key.as_deref());
        args.text(subject.owner.as_deref());
        let finished = kinds.is_finished(&subject.key, &subject.status);
        args.text(finished.then_some(subject.status.as_str()));
        args.push(finished.then_some(now_ms as i64));
        args.text(row.data_key());
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
        args.push(row.seq);
        args.text(event.id.as_str());
        args.text(event.source.as_str());
        args.text(event.event_type.as_str());
        args.text(event.subject.as_str());
        args.push(event.time_ms as i64);
        args.text(event.content_type.as_str());
        args.bytes(&*row.stored_data(encryption));
        args.push((!event.attributes.is_empty()).then(|| json(&event.attributes)));
        args.text(envelope.subject_key.as_deref());
        args.text(envelope.correlation_id.as_str());
        args.text(envelope.cause.as_ref().map(|cause| cause.source.as_str()));
        args.text(envelope.cause.as_ref().map(|cause| cause.id.as_str()));
        args.push(i64::from(envelope.hops));
        args.push(envelope.expires_at_ms as i64);
        args.text(row.producer.map(|producer| producer.0));
        args.text(row.producer.map(|producer| producer.1));
        args.text(list(&row.routed_to).as_deref());
        args.push(now_ms as i64);
        args.push(row.due_ms.map(|due_ms| due_ms as i64));
        args.push(row.unrouted.then_some(now_ms as i64));
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
        args.push(row.seq);
        args.text(&**row.stage);
        args.push(1_i64);
        args.push(1_i64);
        args.text(status_name(DeliveryStatus::Open));
        args.push(now_ms as i64);
        args.push(row.queued_ms as i64);
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
        args.push(row.seq);
        args.text(row.stage);
        args.push(i64::from(row.round));
        args.push(i64::from(row.attempt));
        args.text(status_name(row.status));
        args.text(settled.map(|by| by.version));
        args.text(settled.map(|by| by.digest));
        args.text(row.host);
        args.push(settled.map(|by| by.duration_us as i64));
        args.push(list(&row.emitted));
        args.push(row.created_ms as i64);
        args.push(row.queued_ms as i64);
        args.push(settled.map(|by| by.at_ms as i64));
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
        args.push(row.id);
        args.push(row.seq);
        args.push(row.due_ms as i64);
        args.text(row.leased.then_some(host));
        args.push(row.leased.then_some(lease_until_ms as i64));
        args.text(direct.map(|direct| &*direct.stage));
        args.push(direct.map(|direct| i64::from(direct.round)));
        args.push(direct.map(|direct| i64::from(direct.attempt)));
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
        args.text(row.stage);
        args.text(row.key);
        args.bytes(row.stored_value(encryption).as_deref());
        args.push(row.version);
        args.push(row.value.is_none().then_some(now_ms as i64));
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
        args.push(row.seq);
        args.text(row.stage);
        args.push(i64::from(failure.round));
        args.push(i64::from(failure.attempt));
        args.text(failure.code.as_str());
        args.text(&*row.stored_message(encryption));
        args.text(row.stored_backtrace(encryption).as_deref());
        args.text(failure.digest.as_str());
        args.push(failure.duration_us as i64);
        args.push(failure.at_ms as i64);
        args.text(failure.host.as_deref());
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
        args.text(row.stage);
        args.push(now_ms as i64);
        args.push(row.seq);
        args.text(&*row.stored_body(encryption));
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
        args.push(row.seq);
        args.text(row.stage);
        args.push(i64::from(row.round));
        args.text(row.code);
        args.text(&*row.stored_message(encryption));
        args.text(row.digest);
        args.text(&*row.stored_fingerprint(encryption));
        args.text(row.fingerprint.group.as_str());
        args.push(now_ms as i64);
        args.text("open");
    })
}
