//! Sealing and opening, rotation, and what a missing or dropped key leaves.

use super::*;

fn ring(primary: &str, ids: &[&str]) -> Arc<KeyRing> {
    let key = |id: &str| {
        let mut key = [0; KEY_BYTES];
        key[..id.len()].copy_from_slice(id.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(key)
    };
    let keys: std::collections::BTreeMap<_, _> = ids.iter().map(|id| (*id, key(id))).collect();
    let text = serde_json::json!({ "primary": primary, "keys": keys });
    Arc::new(KeyRing::new(serde_json::from_value(text).unwrap()).unwrap())
}

/// With the shared key of a new store.
fn opened(ring: Arc<KeyRing>) -> Encryption {
    let encryption = Encryption::with(ring);
    let first = encryption.take_shared(&[]).expect("a first key");
    assert!(encryption.take_shared(&[first]).is_none());
    encryption
}

/// The key of no subject, or of one that was erased.
fn none() -> StoredKey {
    Encryption::default().key_of("", None)
}

const DATA: Place<'static> = Place { column: "events.data", owner: "order/1", name: "e" };

#[test]
fn a_value_is_sealed_and_opened_in_its_place_only() {
    let encryption = opened(ring("a", &["a"]));
    let key = encryption.new_data_key("order/1").unwrap();
    let owner = encryption.key_of("order/1", Some(key.wrapped()));
    let sealed = encryption.seal(Some(&key), DATA, b"marker").into_owned();
    assert!(!sealed.windows(6).any(|part| part == b"marker"), "it is readable");
    assert_ne!(sealed, encryption.seal(Some(&key), DATA, b"marker").into_owned(), "same nonce");
    assert_eq!(&*encryption.open(&owner, DATA, &sealed), b"marker");
    for place in [
        Place { column: "subjects.body", ..DATA },
        Place { owner: "order/2", ..DATA },
        Place { name: "f", ..DATA },
    ] {
        let opened = encryption.open(&owner, place, &sealed);
        assert!(unreadable(&opened).is_some_and(|why| why.contains("moved")), "{opened:?}");
    }
    // The key of another subject, and one that was moved to another subject.
    let other = encryption.new_data_key("order/2").unwrap();
    for owner in [("order/2", other.wrapped()), ("order/2", key.wrapped())] {
        let opened = encryption.open(&encryption.key_of(owner.0, Some(owner.1)), DATA, &sealed);
        assert!(unreadable(&opened).is_some(), "{opened:?}");
    }
    for flipped in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[flipped] ^= 1;
        let opened = encryption.open(&owner, DATA, &damaged);
        assert_ne!(&*opened, b"marker", "byte {flipped}");
    }
}

#[test]
fn what_has_no_subject_is_sealed_with_the_shared_key() {
    let encryption = opened(ring("a", &["a"]));
    let place = Place { column: "state.value", owner: "payment", name: "k" };
    for text in ["", "marker", "\u{1}sealed\u{1}s", "\u{1}sealed\u{1}!x"] {
        let sealed = encryption.seal_text(None, place, text).into_owned();
        assert!(text.is_empty() || !sealed.contains(text), "{sealed}");
        assert_eq!(encryption.open_text(&none(), place, &sealed), text);
    }
}

#[test]
fn without_keys_every_value_is_stored_as_it_is_and_read_back() {
    let off = Encryption::default();
    let values: [&[u8]; 4] = [b"", b"{}", b"\x01sealed\x01s123", b"\x01sealed\x01!no"];
    for value in values {
        let stored = off.seal(None, DATA, value).into_owned();
        assert_eq!(&*off.open(&none(), DATA, &stored), value);
        assert_eq!(stored == value, !value.starts_with(b"\x01"));
    }
    let text = "\u{1}sealed\u{1}0\u{1}";
    assert_eq!(off.open_text(&none(), DATA, &off.seal_text(None, DATA, text)), text);
    // A store that was written with keys.
    let on = opened(ring("a", &["a"]));
    let key = on.new_data_key("order/1").unwrap();
    for key in [Some(&*key), None] {
        let sealed = on.seal(key, DATA, b"marker").into_owned();
        let owner = off.key_of("order/1", key.map(DataKey::wrapped).or(Some("a:x")));
        let opened = off.open(&owner, DATA, &sealed);
        let why = unreadable(&opened).expect("it cannot be opened");
        assert!(why.contains("set [encryption]"), "{why}");
    }
    // A store that was written without keys is read with them.
    assert_eq!(&*on.open(&none(), DATA, b"{}"), b"{}");
}

#[test]
fn a_rotation_wraps_the_data_key_again() {
    let old = opened(ring("a", &["a"]));
    let key = old.new_data_key("order/1").unwrap();
    let sealed = old.seal(Some(&key), DATA, b"marker").into_owned();
    let both = opened(ring("b", &["a", "b"]));
    assert_eq!(&*both.open(&both.key_of("order/1", Some(key.wrapped())), DATA, &sealed), b"marker");
    let wrapped = both.wrapped_again("order/1", key.wrapped()).expect("by the new key");
    assert!(wrapped.starts_with("b:"), "{wrapped}");
    assert_eq!(both.wrapped_again("order/1", &wrapped), None);
    let new = opened(ring("b", &["b"]));
    assert_eq!(&*new.open(&new.key_of("order/1", Some(&wrapped)), DATA, &sealed), b"marker");
    let lost = new.open(&new.key_of("order/1", Some(key.wrapped())), DATA, &sealed);
    let why = unreadable(&lost).expect("its key is gone").into_owned();
    assert_eq!(why, "the key `a` is not in this host's key ring");
    assert_eq!(new.wrapped_again("order/1", key.wrapped()), None);
}

#[test]
fn a_dropped_data_key_erases_what_it_sealed() {
    let encryption = opened(ring("a", &["a"]));
    let key = encryption.new_data_key("order/1").unwrap();
    let sealed = encryption.seal(Some(&key), DATA, b"marker").into_owned();
    let opened = encryption.open(&none(), DATA, &sealed);
    assert_eq!(unreadable(&opened).as_deref(), Some(ERASED));
    // An unreadable value that is stored again stays unreadable.
    let again = encryption.seal(Some(&key), DATA, &opened).into_owned();
    let owner = encryption.key_of("order/1", Some(key.wrapped()));
    assert_eq!(unreadable(&encryption.open(&owner, DATA, &again)).as_deref(), Some(ERASED));
    let text = codec::to_text(&codec::unreadable_value(ERASED));
    let read = encryption.open_text(&owner, DATA, &text);
    assert_eq!(unreadable(read.as_bytes()).as_deref(), Some(ERASED));
}

#[test]
fn a_lost_shared_key_is_replaced_and_its_values_say_so() {
    let old = opened(ring("a", &["a"]));
    let place = Place { column: "state.value", owner: "payment", name: "k" };
    let sealed = old.seal(None, place, b"1").into_owned();
    let first = SharedKey { number: 1, wrapped: ring("a", &["a"]).new_data_key("").wrapped.into() };
    let new = Encryption::with(ring("b", &["b"]));
    let second = new.take_shared(&[SharedKey { number: 1, wrapped: first.wrapped.clone() }]);
    let second = second.expect("one to seal with");
    assert_eq!(second.number, 2);
    assert!(new.take_shared(&[first, second]).is_none());
    let lost = new.open(&none(), place, &sealed);
    assert!(unreadable(&lost).is_some_and(|why| why.contains("`a`")), "{lost:?}");
    let sealed = new.seal(None, place, b"2").into_owned();
    assert_eq!(&*new.open(&none(), place, &sealed), b"2");
    let newer = old.open(&none(), place, &sealed);
    assert!(unreadable(&newer).is_some_and(|why| why.contains("shared key 2")), "{newer:?}");
}

#[test]
fn a_key_ring_says_what_is_wrong_without_its_keys() {
    let problem = |text: serde_json::Value| {
        KeyRing::new(serde_json::from_value(text).unwrap()).unwrap_err().0
    };
    let good = STANDARD_NO_PAD.encode([1; KEY_BYTES]) + "=";
    for (text, expected) in [
        (serde_json::json!({ "primary": "b", "keys": { "a": good } }), "no such key"),
        (serde_json::json!({ "primary": "a", "keys": { "a": "c2hvcnQ=" } }), "32 bytes"),
        (serde_json::json!({ "primary": "a", "keys": { "a": "!" } }), "openssl rand"),
        (serde_json::json!({ "primary": "a:", "keys": { "a:": good } }), "letters, digits"),
    ] {
        let problem = problem(text);
        assert!(problem.contains(expected) && !problem.contains("c2hvcnQ"), "{problem}");
    }
    assert!(!format!("{:?}", ring("a", &["a"])).contains("Cipher"));
}
