//! Counts costs by the step in which they arise: a layer for the spans and events of the host.
//!
//! The thread's step is its slot in [`allocations`]. A span of the host that is no step changes
//! nothing.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::Id;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::allocations::{self, SLOTS};
use postrider::internals::{COSTS, SPANS, STEPS};

/// The steps by their slots: on an order's way, after everything outside of them. The first name is
/// printed; the others are the names of spans.
pub(super) static NAMES: [&str; SLOTS] =
    ["background", "request", "commit", "publish", "outbox", "consume", "batch", "call"];

/// What is counted by events, by the names of their fields.
pub(super) const COUNTED: [&str; 11] = [
    "json_reads",
    "json_writes",
    "statements",
    "round_trips",
    "rows_read",
    "rows_changed",
    "commits",
    "amqp_published",
    "amqp_delivered",
    "amqp_acks",
    "amqp_bytes",
];

static COUNTS: [[AtomicU64; COUNTED.len()]; SLOTS] =
    [const { [const { AtomicU64::new(0) }; COUNTED.len()] }; SLOTS];

thread_local! {
    /// The slots of the spans around the current one.
    static OUTER: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The counts so far, by slot.
pub(super) fn counts() -> [[u64; COUNTED.len()]; SLOTS] {
    std::array::from_fn(|slot| std::array::from_fn(|at| COUNTS[slot][at].load(Ordering::Relaxed)))
}

/// What the layer needs of the program's spans and events.
pub(crate) fn targets() -> Targets {
    Targets::new().with_targets([SPANS, STEPS, COSTS].map(|target| (target, LevelFilter::TRACE)))
}

/// Counts by step.
pub(crate) struct CostLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for CostLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Adder { slot: allocations::slot() });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let name = context.metadata(id).map_or("", |metadata| metadata.name());
        let slot = NAMES.iter().skip(1).position(|step| *step == name).map(|at| at + 1);
        let outer = allocations::enter(slot.unwrap_or(allocations::slot()));
        // A thread that ends keeps its step.
        let _ = OUTER.try_with(|slots| slots.borrow_mut().push(outer));
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        let outer = OUTER.try_with(|slots| slots.borrow_mut().pop());
        allocations::enter(outer.ok().flatten().unwrap_or(0));
    }
}

/// Adds the fields of an event to the counts of a step.
struct Adder {
    slot: usize,
}

impl Visit for Adder {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if let Some(at) = COUNTED.iter().position(|name| *name == field.name()) {
            COUNTS[self.slot][at].fetch_add(value, Ordering::Relaxed);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
