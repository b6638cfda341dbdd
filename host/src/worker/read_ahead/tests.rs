//! Which deliveries are read ahead, given what is held.

use super::*;
use crate::domain::event::Event;

const OPENED_MS: u64 = 1_000;

fn envelope(customer_hash: u64, number: usize) -> Arc<Envelope> {
    let event = Event {
        id: number.to_string(),
        event_type: "order.created".into(),
        source: "/orders/api".into(),
        subject: number.to_string(),
        time_ms: 0,
        content_type: String::new(),
        data: bytes::Bytes::new(),
        attributes: Vec::new(),
    };
    let key = format!("order/{number}").parse().ok();
    Arc::new(Envelope { customer_hash, ..Envelope::first(event, key, 10) })
}

fn waiting(customer_hash: u64, number: usize, queued_at_ms: u64) -> OpenDelivery {
    OpenDelivery { envelope: envelope(customer_hash, number), round: 1, attempt: 2, queued_at_ms }
}

fn chosen(held: &[Arc<Envelope>], found: Vec<OpenDelivery>) -> Vec<String> {
    let chosen = choose(held, found, OPENED_MS);
    chosen.iter().map(|delivery| delivery.envelope.event.id.clone()).collect()
}

fn held(customer_hash: u64, count: usize) -> Vec<Arc<Envelope>> {
    (0..count).map(|number| envelope(customer_hash, number)).collect()
}

#[test]
fn a_flow_is_read_ahead_until_it_has_half_of_its_share() {
    let found: Vec<OpenDelivery> =
        (0..20).map(|number| waiting(1 + number as u64 % 2, 100 + number, 2_000)).collect();
    // 40 are held, and two flows wait.
    let odd: Vec<String> = (0..10).map(|number| (101 + 2 * number).to_string()).collect();
    assert_eq!(chosen(&held(1, 40), found.clone()), odd);
    // Of the second one, 7 are held already.
    let mut both = held(1, 33);
    both.extend((1_000..1_007).map(|number| envelope(2, number)));
    assert_eq!(chosen(&both, found), odd[..3]);
}

#[test]
fn nothing_is_read_ahead_of_a_single_flow_or_of_what_is_held() {
    let found: Vec<OpenDelivery> = (0..40).map(|number| waiting(1, 100 + number, 2_000)).collect();
    assert!(chosen(&held(1, 39), found).is_empty());
    let held: Vec<_> = (0..9).map(|number| envelope(1 + number as u64 / 8, number)).collect();
    assert_eq!(chosen(&held, vec![waiting(2, 8, 2_000), waiting(2, 9, 2_000)]), ["9"]);
}

#[test]
fn a_flow_that_was_queued_before_the_consumer_opened_is_left_to_the_broker() {
    let found = vec![
        waiting(2, 100, OPENED_MS - 1),
        waiting(2, 101, OPENED_MS),
        waiting(3, 102, OPENED_MS),
    ];
    assert_eq!(chosen(&held(1, 40), found), ["102"]);
}

#[test]
fn the_keys_of_a_bounded_number_of_events_are_remembered() {
    let mut copies = Copies::default();
    let key = |number: usize| EventKey { source: "/s".into(), id: number.to_string() };
    for number in 0..COPIES_MAX + 3 {
        copies.add(&key(number));
    }
    assert_eq!((copies.hashes.len(), copies.oldest_first.len()), (COPIES_MAX, COPIES_MAX));
    assert!(!copies.hashes.contains(&hash(&key(2))) && copies.hashes.contains(&hash(&key(3))));
}
