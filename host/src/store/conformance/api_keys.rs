//! API keys and sessions.

use super::{Bench, START_MS};
use crate::domain::access::PrincipalKind;
use crate::domain::actor::Actor;
use crate::domain::api_key::SecretDigest;
use crate::store::{ApiKey, CreatedKey, NewApiKey, Session};

pub(super) fn key(id: &str, principal: &str, expires_at_ms: Option<u64>) -> NewApiKey {
    let key = ApiKey {
        id: id.to_owned(),
        principal: principal.to_owned(),
        description: "a client".to_owned(),
        roles: vec!["read".parse().unwrap(), "submit:type/order.*".parse().unwrap()],
        digest: SecretDigest::of(id),
        created_at_ms: START_MS,
        created_by: Some("key/ops".to_owned()),
        expires_at_ms,
        revoked_at_ms: None,
        last_used_at_ms: None,
    };
    NewApiKey { key, replaces: None }
}

impl Bench {
    async fn create(&self, new: NewApiKey) -> CreatedKey {
        self.store.create_api_key(new, &Actor::program()).await.unwrap()
    }

    async fn key(&self, id: &str) -> Option<ApiKey> {
        self.store.api_keys().await.unwrap().into_iter().find(|key| key.id == id)
    }
}

pub(super) async fn an_api_key_is_kept_as_its_digest(bench: Bench) {
    assert_eq!(bench.create(key("a", "checkout", Some(START_MS + 10))).await, CreatedKey::Created);
    let kept = bench.key("a").await.unwrap();
    assert!(kept.digest.matches(&SecretDigest::of("a")));
    let roles: Vec<String> = kept.roles.iter().map(ToString::to_string).collect();
    assert_eq!(roles, ["read", "submit:type/order.*"]);
    assert_eq!(
        (kept.principal.as_str(), kept.created_by.as_deref(), kept.expires_at_ms),
        ("checkout", Some("key/ops"), Some(START_MS + 10))
    );
    bench.store.api_keys_used(vec![("a".into(), START_MS + 5), ("none".into(), 1)]).await.unwrap();
    // Another host used it earlier.
    bench.store.api_keys_used(vec![("a".into(), START_MS + 3)]).await.unwrap();
    assert_eq!(bench.key("a").await.unwrap().last_used_at_ms, Some(START_MS + 5));
}

pub(super) async fn a_principal_has_two_live_keys_at_most(bench: Bench) {
    for id in ["a", "b"] {
        assert_eq!(bench.create(key(id, "checkout", None)).await, CreatedKey::Created);
    }
    assert_eq!(bench.create(key("c", "checkout", None)).await, CreatedKey::TooMany);
    assert!(bench.key("c").await.is_none());
    assert_eq!(bench.create(key("d", "other", None)).await, CreatedKey::Created);
    // One that was revoked, or has expired, no longer counts.
    let revoked =
        bench.store.revoke_api_key("a", START_MS + 1, &Actor::program()).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at_ms, Some(START_MS + 1));
    let again =
        bench.store.revoke_api_key("a", START_MS + 9, &Actor::program()).await.unwrap().unwrap();
    assert_eq!(again.revoked_at_ms, Some(START_MS + 1), "a repeated revocation changes nothing");
    assert!(
        bench.store.revoke_api_key("none", START_MS, &Actor::program()).await.unwrap().is_none()
    );
    assert_eq!(bench.create(key("e", "checkout", None)).await, CreatedKey::Created);
}

pub(super) async fn a_replaced_key_expires(bench: Bench) {
    bench.create(key("a", "checkout", None)).await;
    let successor = NewApiKey {
        replaces: Some(("a".to_owned(), START_MS + 100)),
        ..key("b", "checkout", None)
    };
    assert_eq!(bench.create(successor).await, CreatedKey::Created);
    assert_eq!(bench.key("a").await.unwrap().expires_at_ms, Some(START_MS + 100));
    let refused = NewApiKey {
        replaces: Some(("b".to_owned(), START_MS + 100)),
        ..key("c", "checkout", None)
    };
    assert_eq!(bench.create(refused).await, CreatedKey::TooMany);
    assert_eq!(bench.key("b").await.unwrap().expires_at_ms, None, "nothing was changed");
}

pub(super) async fn concurrent_keys_of_a_principal_are_two_at_most(bench: Bench) {
    let ids: Vec<String> = (0..8).map(|number| format!("key-{number}")).collect();
    let created =
        futures::future::join_all(ids.iter().map(|id| bench.create(key(id, "checkout", None))));
    let created = created.await.into_iter().filter(|one| *one == CreatedKey::Created).count();
    assert_eq!(created, 2);
}

pub(super) async fn a_session_is_found_until_it_is_deleted(bench: Bench) {
    let session = |digest: &str, expires_at_ms: u64| Session {
        digest: digest.to_owned(),
        kind: PrincipalKind::ApiKey.name().to_owned(),
        principal: "ops".to_owned(),
        name: "Operators".to_owned(),
        roles: vec!["operate:stage/payment".parse().unwrap()],
        credential: Some("a".to_owned()),
        expires_at_ms,
    };
    let store = &bench.store;
    let first = session("one", START_MS + 10);
    store.create_session(first.clone()).await.unwrap();
    assert_eq!(store.session("one").await.unwrap(), Some(first));
    assert_eq!(store.session("two").await.unwrap(), None);
    // An expired one goes when another one begins.
    bench.clock.advance(10);
    store.create_session(session("two", START_MS + 20)).await.unwrap();
    assert_eq!(store.session("one").await.unwrap(), None);
    assert!(store.delete_session("two").await.unwrap());
    assert!(!store.delete_session("two").await.unwrap());
    assert_eq!(store.session("two").await.unwrap(), None);
}

pub(super) async fn subjects_are_listed_by_owner(bench: Bench) {
    use super::build::new_subject;
    use crate::store::{NewSubject, SubjectFilter};
    for (id, owner) in [("1", Some("key/a")), ("2", Some("key/b")), ("3", None)] {
        let owner = owner.map(str::to_owned);
        let new = NewSubject { owner, ..new_subject(id, "same") };
        bench.store.accept_subject(new).await.unwrap();
    }
    let list = |owner: Option<&str>| SubjectFilter {
        owner: owner.map(str::to_owned),
        limit: 10,
        ..SubjectFilter::default()
    };
    let page = bench.store.subjects(list(Some("key/a"))).await.unwrap();
    let found: Vec<_> =
        page.items.iter().map(|subject| (subject.id(), subject.owner.as_deref())).collect();
    assert_eq!(found, [("1", Some("key/a"))]);
    assert_eq!(bench.store.subjects(list(None)).await.unwrap().items.len(), 3);
}
