//! What every [`Store`] must do, as exercises that run on any implementation.
//!
//! The list is [`EXERCISES`]. Each exercise gets an empty store and a clock that stands still until
//! the exercise moves it, so nothing here waits for time to pass. An exercise fails by panicking.

mod build;
pub(in crate::store) mod cancelling;
mod dead_lettering;
mod hosts;
mod intake;
mod log;
mod outbox;
mod pruning;
mod reading;
mod recordings;
mod settling;
mod dead_letters;

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Store;
use crate::domain::clock::ManualClock;

/// Where the clock stands when an exercise begins.
pub const START_MS: u64 = 1_700_000_000_000;
/// The length of leases that the store must be made with.
pub const LEASE_MS: u64 = 30_000;

/// What an exercise works with.
#[derive(Clone)]
pub struct Bench {
    /// An empty store, with [`LEASE_MS`], the default status rules and `clock`.
    pub store: Arc<dyn Store>,
    /// Its clock, at [`START_MS`].
    pub clock: Arc<ManualClock>,
}

/// An exercise and its name.
pub struct Exercise {
    /// What it shows.
    pub name: &'static str,
    /// Shows it, or panics.
    pub run: fn(Bench) -> BoxFuture<'static, ()>,
}

macro_rules! exercises {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// All exercises.
        pub const EXERCISES: &[Exercise] = &[
            $( Exercise { name: stringify!($name), run: |bench| Box::pin($module::$name(bench)) }, )*
        ];
    };
}

exercises![
    intake::an_order_is_accepted_once,
    intake::two_orders_of_one_id_at_the_same_time,
    intake::an_event_is_accepted_once,
    settling::a_batch_is_committed_with_its_effects,
    settling::a_settled_delivery_is_stale,
    settling::a_changed_version_is_a_conflict,
    settling::a_removed_key_keeps_its_version,
    settling::a_rejected_batch_writes_nothing,
    settling::batches_at_the_same_time_settle_once,
    settling::an_event_from_elsewhere_is_adopted,
    settling::a_skip_settles,
    settling::status_follows_the_events,
    cancelling::a_cancel_is_written_with_its_event_once,
    cancelling::a_cancel_that_comes_too_late_changes_nothing,
    cancelling::cancels_at_the_same_time_begin_once,
    cancelling::what_goes_forward_is_overtaken,
    cancelling::an_order_is_cancelled_when_all_is_undone,
    cancelling::an_order_that_nobody_undoes_is_cancelled_at_once,
    cancelling::compensations_at_the_same_time_end_the_cancel,
    cancelling::a_dead_compensation_holds_the_cancel,
    cancelling::exactly_one_of_dispatch_and_cancel_wins,
    outbox::a_retry_waits_for_its_time,
    outbox::a_deferral_is_no_attempt,
    outbox::a_delayed_event_waits_for_its_time,
    outbox::a_lease_runs_out,
    outbox::a_postponed_row_comes_back,
    outbox::lost_deliveries_are_sent_again,
    dead_lettering::a_death_is_written_and_announced,
    dead_lettering::a_replay_reopens_the_delivery_once,
    dead_lettering::an_edited_replay_replaces_the_delivery,
    dead_lettering::a_discard_is_final,
    dead_lettering::dead_letters_are_listed_in_pages,
    dead_letters::letters_that_died_of_the_same_are_one_group,
    dead_letters::groups_are_listed_in_pages,
    dead_letters::letters_are_picked_by_every_filter,
    dead_letters::a_trap_is_grouped_by_its_place,
    dead_letters::what_became_of_a_letter_is_kept,
    reading::orders_are_listed_in_pages,
    reading::an_order_tells_its_story,
    reading::state_is_found_by_folder_and_prefix,
    reading::a_delivery_is_found_by_its_key,
    log::the_log_is_read_by_filters_in_pages,
    log::events_are_found_by_order_and_id,
    log::a_scheduled_event_shows_when_it_falls_due,
    log::an_order_is_settled_when_nothing_of_it_is_open,
    log::orders_are_found_by_time_and_by_where_they_wait,
    log::an_idempotency_key_stands_for_one_body,
    recordings::what_was_recorded_is_listed_as_it_was_settled,
    recordings::an_order_has_its_own_recordings,
    recordings::only_what_is_settled_is_recorded,
    recordings::an_adopted_event_has_its_recording,
    recordings::a_reopened_delivery_is_recorded_anew,
    recordings::they_go_with_their_order,
    reading::settled_deliveries_are_recognised,
    reading::plugin_loads_are_kept,
    reading::the_operators_word_is_kept,
    hosts::a_binding_stays_while_it_is_used,
    hosts::a_stage_that_nobody_runs_keeps_its_bindings,
    hosts::a_lease_is_renewed_by_its_holder,
    pruning::what_is_finished_and_old_goes,
    pruning::what_is_open_stays,
    reading::a_closed_store_says_so,
];

/// An event without an order, due at [`START_MS`]: for tests that belong to one implementation.
pub fn sample_event(id: &str, routed_to: &[&str]) -> super::NewEvent {
    build::new_event(build::envelope("sample", id, None), routed_to)
}

/// Runs every exercise on a store of its own.
pub async fn run(make: impl AsyncFn(Arc<ManualClock>) -> Arc<dyn Store>) {
    for exercise in EXERCISES {
        tracing::info!(exercise = exercise.name, "conformance");
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = make(Arc::clone(&clock)).await;
        let bench = Bench { store, clock };
        (exercise.run)(bench.clone()).await;
        bench.store.close().await;
    }
}
