//! What every [`Store`] must do, as exercises that run on any implementation.
//!
//! The list is [`EXERCISES`]. Each exercise gets an empty store and a clock that only the exercise
//! advances, so nothing waits for time to pass. An exercise fails by panicking.

mod audit;
mod api_keys;
mod build;
mod chains;
pub(in crate::store) mod cancelling;
mod dead_lettering;
mod erasing;
mod figures;
mod hosts;
mod intake;
mod kinds;
mod log;
mod log_levels;
mod message_keys;
mod outbox;
mod pruning;
mod reading;
mod recordings;
mod settling;
mod unrouted;
mod dead_letters;

use std::sync::Arc;

use futures::future::BoxFuture;

pub(crate) use self::build::encryption;
pub(in crate::store) use self::build::{batch, kinds, new_subject, settlement};
use super::Store;
use crate::domain::clock::ManualClock;

/// The time when an exercise starts.
pub const START_MS: u64 = 1_700_000_000_000;
/// The lease time of the store.
pub const LEASE_MS: u64 = 30_000;

/// The fixture of an exercise.
#[derive(Clone)]
pub struct Bench {
    /// An empty store, with [`LEASE_MS`], the kinds of [`kinds`], the keys of [`encryption`] and `clock`.
    pub store: Arc<dyn Store>,
    /// Its clock, at [`START_MS`].
    pub clock: Arc<ManualClock>,
}

/// An exercise and its name.
pub struct Exercise {
    /// The behaviour that it checks.
    pub name: &'static str,
    /// Checks it, or panics.
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
    erasing::a_customer_is_erased_and_the_skeleton_remains,
    erasing::values_are_sealed_with_the_key_of_their_subject,
    intake::a_subject_is_accepted_once,
    intake::concurrent_subjects_with_one_id_are_accepted_once,
    intake::an_event_is_accepted_once,
    intake::a_subject_whose_first_event_is_in_the_log_is_refused,
    settling::a_batch_is_committed_with_its_effects,
    settling::a_settled_delivery_is_stale,
    settling::a_changed_version_is_a_conflict,
    settling::a_removed_key_keeps_its_version,
    settling::a_rejected_batch_writes_nothing,
    settling::concurrent_batches_settle_a_delivery_once,
    settling::an_event_of_another_program_is_logged,
    settling::a_skipped_delivery_is_settled,
    settling::every_attempt_has_its_host,
    settling::a_dead_letter_has_the_hosts_of_its_attempts,
    settling::status_follows_the_events,
    cancelling::a_cancellation_is_written_with_its_event_once,
    cancelling::a_late_cancellation_changes_nothing,
    cancelling::concurrent_cancellations_begin_once,
    cancelling::a_cancellation_stops_forward_deliveries,
    cancelling::a_subject_is_cancelled_when_every_compensation_has_completed,
    cancelling::a_subject_without_compensations_is_cancelled_immediately,
    cancelling::concurrent_compensations_complete_the_cancellation,
    cancelling::a_dead_lettered_compensation_delays_the_cancellation,
    cancelling::exactly_one_of_dispatch_and_cancel_wins,
    outbox::a_retry_is_sent_when_it_is_due,
    outbox::a_deferral_does_not_count_as_an_attempt,
    outbox::a_delayed_event_is_sent_when_it_is_due,
    outbox::an_expired_lease_frees_its_row,
    outbox::a_postponed_row_is_claimed_when_it_is_due,
    outbox::a_row_is_narrowed_to_the_stages_that_did_not_confirm,
    outbox::rows_are_claimed_and_requeued_up_to_a_number_of_bytes,
    outbox::lost_deliveries_are_sent_again,
    outbox::an_event_that_is_handed_over_has_no_row,
    outbox::an_event_is_not_handed_over_before_an_earlier_one,
    outbox::messages_that_were_not_run_are_given_back,
    dead_lettering::a_dead_letter_is_written_and_announced,
    dead_lettering::a_replay_reopens_the_delivery_once,
    dead_lettering::an_edited_replay_replaces_the_delivery,
    dead_lettering::a_discard_is_final,
    dead_lettering::dead_letters_are_listed_in_pages,
    dead_letters::dead_letters_with_the_same_fingerprint_are_one_group,
    dead_letters::groups_are_listed_in_pages,
    dead_letters::dead_letters_are_found_by_every_filter,
    dead_letters::pages_of_dead_letters_are_bounded_in_bytes,
    dead_letters::traps_are_grouped_by_function_and_line,
    dead_letters::the_outcome_of_a_dead_letter_is_kept,
    reading::subjects_are_listed_in_pages,
    reading::subjects_of_each_filter_are_listed_in_pages,
    reading::a_subject_has_its_events_and_deliveries,
    reading::state_is_found_by_folder_and_prefix,
    reading::a_delivery_is_found_by_its_key,
    log::the_log_is_read_by_filters_in_pages,
    log::pages_of_the_log_are_bounded_in_bytes,
    log::events_are_found_by_subject_and_id,
    log::a_scheduled_event_shows_when_it_is_due,
    log::a_subject_is_settled_when_all_its_deliveries_are,
    log::subjects_are_found_by_time_and_by_waiting_stage,
    log::an_idempotency_key_is_bound_to_one_body,
    figures::what_waits_is_counted,
    figures::subjects_that_finished_are_found_by_time,
    recordings::recordings_are_listed_in_the_order_of_settlement,
    recordings::pages_of_recordings_are_bounded_in_bytes,
    recordings::a_subject_has_its_own_recordings,
    recordings::only_settled_deliveries_are_recorded,
    recordings::an_event_of_another_program_has_its_recording,
    recordings::a_replayed_delivery_gets_a_new_recording,
    recordings::recordings_are_deleted_with_their_subject,
    reading::settled_deliveries_are_recognised,
    reading::plugin_loads_are_kept,
    reading::stage_controls_are_kept,
    log_levels::log_levels_are_kept,
    log_levels::changes_of_log_levels_leave_a_record,
    log_levels::log_levels_that_ended_are_deleted,
    audit::every_write_of_an_operator_leaves_a_record,
    audit::changes_of_keys_leave_a_record,
    audit::a_write_that_changes_nothing_leaves_no_record,
    audit::what_is_recorded_once_is_not_repeated,
    audit::concurrent_records_of_the_same_are_one,
    audit::the_log_is_filtered_and_read_in_pages,
    audit::old_records_are_deleted_and_the_chain_goes_on,
    audit::concurrent_writes_make_one_chain,
    chains::counts_of_hosts_are_added,
    chains::a_chain_is_stopped_and_resumed,
    chains::changed_chains_are_listed,
    hosts::a_binding_stays_while_it_is_used,
    hosts::a_stage_without_a_host_keeps_its_bindings,
    hosts::a_lease_is_renewed_by_its_holder,
    hosts::a_command_is_taken_once_by_its_host,
    hosts::a_command_that_is_not_taken_expires,
    hosts::a_host_is_live_while_it_reports,
    message_keys::the_first_key_is_added_once,
    message_keys::a_new_key_is_the_newest,
    message_keys::a_key_is_removed_unless_it_is_the_newest,
    message_keys::the_number_of_keys_is_bounded,
    api_keys::an_api_key_is_kept_as_its_digest,
    api_keys::a_principal_has_two_live_keys_at_most,
    api_keys::a_replaced_key_expires,
    api_keys::concurrent_keys_of_a_principal_are_two_at_most,
    api_keys::a_session_is_found_until_it_is_deleted,
    api_keys::subjects_are_listed_by_owner,
    unrouted::a_subject_without_a_stage_is_routed_when_one_appears,
    unrouted::an_event_waits_while_its_subject_is_unfinished,
    unrouted::open_deliveries_of_a_stage_are_listed,
    unrouted::kinds_and_customers_take_turns_in_what_waits,
    kinds::each_kind_has_its_own_status_table,
    kinds::each_kind_has_its_own_ids_and_idempotency_keys,
    kinds::a_cancellation_completes_by_the_rules_of_its_kind,
    kinds::subjects_are_listed_by_kind,
    kinds::each_kind_has_its_own_retention_period,
    kinds::a_subject_of_a_removed_kind_keeps_its_status,
    kinds::an_event_waits_by_the_status_of_its_kind,
    pruning::finished_subjects_past_their_retention_are_deleted,
    pruning::unfinished_subjects_are_kept,
    pruning::an_old_event_that_was_logged_now_is_kept,
    pruning::removed_keys_and_old_loads_and_controls_are_deleted,
    pruning::old_chains_are_deleted,
    reading::a_closed_store_is_unavailable,
];

/// An event without a subject, due at [`START_MS`]: for tests that belong to one implementation.
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
