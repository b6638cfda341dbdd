//! When the breaker opens, who probes, and what closes it.

use std::time::Duration;

use super::*;

fn policy() -> BreakerPolicy {
    BreakerPolicy {
        min_calls: 4,
        min_subjects: 2,
        failure_share: 0.5,
        window_ms: 1_000,
        open_ms: 100,
        open_max_ms: 300,
        uncounted_probes: Some(2),
        unavailable: Vec::new(),
    }
}

fn call(health: Health, subject: &str) -> CallReport<'_> {
    CallReport { permit: Permit::Run, health, subject, error: "bank-down: no answer" }
}

fn probed(permit: Permit, health: Health) -> CallReport<'static> {
    CallReport { permit, ..call(health, "probe") }
}

fn opened_at(now_ms: u64) -> CircuitBreaker {
    let mut breaker = CircuitBreaker::new(policy());
    for subject in ["1", "2", "3", "4"] {
        breaker.report(call(Health::Unavailable, subject), now_ms);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

fn permit(breaker: &mut CircuitBreaker, now_ms: u64) -> Permit {
    breaker.permit(1, Instant::now(), now_ms)
}

#[test]
fn it_opens_when_enough_calls_of_enough_subjects_fail() {
    let mut breaker = CircuitBreaker::new(policy());
    for (health, subject) in
        [(Health::Unavailable, "1"), (Health::Unavailable, "2"), (Health::Good, "3")]
    {
        assert_eq!(breaker.report(call(health, subject), 5_000).change, None);
    }
    let fourth = breaker.report(call(Health::Unavailable, "3"), 5_000);
    assert_eq!(fourth, Reported { change: Some(BreakerState::Open), uncounted: true });
    assert_eq!(permit(&mut breaker, 5_050), Permit::Wait { until_ms: 5_100 });
    let status = breaker.status();
    assert_eq!((status.opened_at_ms, status.next_probe_at_ms), (Some(5_000), Some(5_100)));
    assert_eq!(
        status.reason.as_deref(),
        Some("3 of the last 4 calls failed, for 3 subjects; the last one: bank-down: no answer")
    );
    let mut breaker = CircuitBreaker::new(policy());
    for health in [Health::Unavailable, Health::Good, Health::Good, Health::Good] {
        breaker.report(call(health, "1"), 5_000);
    }
    assert_eq!(breaker.state(), BreakerState::Closed, "one of four");
}

#[test]
fn failures_of_single_messages_never_open_it() {
    let mut breaker = CircuitBreaker::new(policy());
    for number in 0..1_000 {
        breaker.report(call(Health::Unknown, &number.to_string()), 5_000);
        breaker.report(call(Health::Unavailable, "the same"), 5_000);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_time_out_counts_half() {
    let mut breaker = CircuitBreaker::new(policy());
    for subject in ["1", "2", "3"] {
        breaker.report(call(Health::TimedOut, subject), 5_000);
        breaker.report(call(Health::TimedOut, subject), 5_000);
    }
    assert_eq!(breaker.state(), BreakerState::Closed, "three subjects");
    breaker.report(call(Health::TimedOut, "4"), 5_000);
    assert_eq!(breaker.state(), BreakerState::Open, "four subjects");
}

#[test]
fn calls_before_the_window_do_not_count_unless_none_has_succeeded_since() {
    let mut breaker = CircuitBreaker::new(policy());
    for health in [Health::Good, Health::Unavailable, Health::Unavailable] {
        breaker.report(call(health, "1"), 5_000);
    }
    breaker.report(call(Health::Unavailable, "2"), 6_000);
    assert_eq!(breaker.state(), BreakerState::Closed);
    // From here on nothing succeeds, and each call takes longer than the window.
    for (at_ms, subject) in [(8_000, "3"), (10_000, "4"), (12_000, "5")] {
        breaker.report(call(Health::Unavailable, subject), at_ms);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn one_message_probes_and_a_success_closes_it() {
    let mut breaker = opened_at(5_000);
    let probe = permit(&mut breaker, 5_100);
    assert!(probe.is_probe());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(matches!(permit(&mut breaker, 5_100), Permit::Wait { .. }), "a second probe");
    // A success that began before the breaker opened says nothing.
    assert_eq!(breaker.report(call(Health::Good, "1"), 5_105).change, None);
    let closed = breaker.report(probed(probe, Health::Good), 5_110);
    assert_eq!(closed.change, Some(BreakerState::Closed));
    assert_eq!(permit(&mut breaker, 5_110), Permit::Run);
    assert_eq!(breaker.status().reason, None);
}

#[test]
fn the_longest_waiting_message_probes() {
    let mut breaker = opened_at(5_000);
    let (first, second) = (Instant::now(), Instant::now() + Duration::from_millis(1));
    assert!(!breaker.permit(7, first, 5_050).is_probe());
    assert!(!breaker.permit(2, second, 5_100).is_probe(), "lane 7 has waited longer");
    let probe = breaker.permit(7, first, 5_100);
    assert!(probe.is_probe());
    breaker.report(probed(probe, Health::Unavailable), 5_100);
    // Its next message arrived last.
    assert!(!breaker.permit(7, second + Duration::from_millis(1), 5_300).is_probe());
    assert!(breaker.permit(2, second, 5_300).is_probe());
    breaker.leave(7);
    assert!(breaker.permit(2, Instant::now() + Duration::from_secs(9), 9_000).is_probe());
}

#[test]
fn failed_probes_double_the_wait_up_to_its_limit_and_count_after_a_number() {
    let mut breaker = opened_at(5_000);
    let mut now_ms = 5_100;
    for (wait_ms, uncounted) in [(200, true), (300, true), (300, false)] {
        let probe = permit(&mut breaker, now_ms);
        assert!(probe.is_probe());
        let failed = breaker.report(probed(probe, Health::Unavailable), now_ms);
        assert_eq!(failed, Reported { change: None, uncounted });
        assert_eq!(permit(&mut breaker, now_ms), Permit::Wait { until_ms: now_ms + wait_ms });
        now_ms += wait_ms;
    }
    let mut unlimited = opened_at(5_000);
    unlimited.policy.uncounted_probes = None;
    for _ in 0..1_000 {
        let probe = permit(&mut unlimited, u64::MAX / 2);
        unlimited.release_probe(0, u64::MAX / 2);
        assert!(unlimited.report(probed(probe, Health::TimedOut), 0).uncounted);
    }
}

#[test]
fn a_failure_that_says_nothing_about_the_dependency_lets_the_next_message_probe() {
    let mut breaker = opened_at(5_000);
    let probe = permit(&mut breaker, 5_100);
    let reported = breaker.report(probed(probe, Health::Unknown), 5_101);
    assert_eq!(reported, Reported { change: None, uncounted: false });
    assert!(permit(&mut breaker, 5_101).is_probe());
}

#[test]
fn a_probe_that_does_not_end_does_not_hold_up_the_next() {
    let mut breaker = opened_at(5_000);
    let stuck = permit(&mut breaker, 5_100);
    let next = permit(&mut breaker, 5_200);
    assert!(stuck.is_probe() && next.is_probe());
    breaker.report(probed(next, Health::Good), 5_210);
    assert_eq!(breaker.state(), BreakerState::Closed);
    // The answer of the first one is that of any other call.
    breaker.report(probed(stuck, Health::TimedOut), 9_000);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_clock_that_is_set_back_does_not_prolong_the_wait() {
    let mut breaker = opened_at(1_000_000);
    assert!(permit(&mut breaker, 5_000).is_probe());
}

#[test]
fn a_new_version_probes_immediately_and_starts_without_failures() {
    let mut breaker = opened_at(5_000);
    for now_ms in [5_100, 5_300] {
        let probe = permit(&mut breaker, now_ms);
        breaker.report(probed(probe, Health::Unavailable), now_ms);
    }
    assert_eq!(permit(&mut breaker, 5_301), Permit::Wait { until_ms: 5_600 });
    breaker.reset_for_new_version();
    let probe = permit(&mut breaker, 5_301);
    assert!(probe.is_probe());
    let closed = breaker.report(probed(probe, Health::Good), 5_302);
    assert_eq!(closed.change, Some(BreakerState::Closed));
    for subject in ["1", "2", "3"] {
        breaker.report(call(Health::Unavailable, subject), 5_303);
    }
    breaker.reset_for_new_version();
    let first = breaker.report(call(Health::Unavailable, "4"), 5_304);
    assert_eq!(first.change, None, "failures of the previous version count");
}

#[test]
fn a_released_probe_goes_to_the_next_lane() {
    let mut breaker = opened_at(5_000);
    let Permit::Probe(probe) = permit(&mut breaker, 5_100) else { panic!("no probe") };
    breaker.release_probe(probe, 5_101);
    assert!(permit(&mut breaker, 5_101).is_probe());
}

#[test]
fn an_operator_closes_it() {
    let mut breaker = opened_at(5_000);
    assert!(breaker.close());
    assert_eq!(permit(&mut breaker, 5_001), Permit::Run);
    assert!(!breaker.close());
}

#[test]
fn a_minimum_of_zero_calls_disables_it() {
    let mut breaker = CircuitBreaker::new(BreakerPolicy { min_calls: 0, ..policy() });
    for number in 0..1_000 {
        let subject = number.to_string();
        assert_eq!(breaker.report(call(Health::Unavailable, &subject), 5_000).change, None);
    }
}
