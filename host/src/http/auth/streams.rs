//! The credential of an answer that is written for as long as its client listens.
//!
//! A stream may last for days, and its credential end meanwhile: a key is revoked, a token expires, a
//! browser logs out. Guarantee: [`INTERVAL`] after a check, nothing more of the answer is made before
//! the request's credential was checked again, in the same way; one that is refused ends the answer. One
//! that cannot be checked is accepted for [`STALE_MAX`] after the last check. Costs: a look-up in memory
//! for each check, and for a session a read of the store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::Entrance;
use crate::app::keys::STALE_MAX;
use crate::domain::access::{Principal, PrincipalKind, Requester};
use crate::http::problem::{Answer, Problem};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validity {
    Accepted,
    Refused,
    /// The credential cannot be checked now.
    Unknown,
}

type Check = Box<dyn Fn() -> BoxFuture<'static, Validity> + Send + Sync>;

/// The credential of a request whose answer is a stream.
pub(crate) struct StreamCredential {
    /// None: the host asks for no credentials.
    check: Option<Check>,
    interval: Duration,
    /// When it is checked next.
    due: Instant,
    /// When it was checked last, and accepted.
    accepted: Instant,
}

impl StreamCredential {
    /// One that was accepted now.
    fn new(check: Option<Check>) -> Self {
        let now = Instant::now();
        Self { check, interval: INTERVAL, due: now + INTERVAL, accepted: now }
    }

    /// The result of `work`; none if the credential is refused before. The work waits during a check.
    pub(in crate::http) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let Some(check) = &self.check else { return Some(work.await) };
        let mut work = pin!(work);
        loop {
            // A timer may be late: what is due is not left to it.
            if Instant::now() < self.due {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(self.due) => {}
                    result = &mut work => return Some(result),
                }
            }
            let asked = Instant::now();
            match check().await {
                Validity::Accepted => self.accepted = asked,
                Validity::Unknown if self.accepted.elapsed() < STALE_MAX => {}
                Validity::Refused | Validity::Unknown => return None,
            }
            self.due = Instant::now() + self.interval;
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for StreamCredential {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let requester = parts.extensions.get::<Requester>().ok_or_else(Problem::internal)?;
        if requester.principal.kind() == PrincipalKind::Anonymous {
            return Ok(Self::new(None));
        }
        let entrance = parts.extensions.get::<Entrance>().ok_or_else(Problem::internal)?;
        let (entrance, principal) = (entrance.clone(), Arc::clone(&requester.principal));
        let opened = Arc::new(Opened { entrance, principal, request: parts.clone() });
        Ok(Self::new(Some(Box::new(move || Arc::clone(&opened).check().boxed()))))
    }
}

/// A request that opened a stream.
struct Opened {
    entrance: Entrance,
    /// Who sent it.
    principal: Arc<Principal>,
    request: Parts,
}

impl Opened {
    /// Finds out once more who sends the request.
    async fn check(self: Arc<Self>) -> Validity {
        let Entrance { app, access, .. } = &self.entrance;
        match access.identify(app, &self.request).await {
            // With other roles, the request would have another answer.
            Ok(now) if now.id() == self.principal.id() && now.roles() == self.principal.roles() => {
                Validity::Accepted
            }
            Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Validity::Unknown
            }
            Ok(_) | Err(_) => {
                tracing::debug!(who = self.principal.id(), "a stream ends with its credential");
                Validity::Refused
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// A credential whose checks are due all the time, and have these results, the last one again and
    /// again; and how many there were.
    fn checked(results: &'static [Validity]) -> (StreamCredential, Arc<AtomicUsize>) {
        let checks = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&checks);
        let check = move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            ready(results[number.min(results.len() - 1)]).boxed()
        };
        let mut credential = StreamCredential::new(Some(Box::new(check)));
        (credential.interval, credential.due) = (Duration::ZERO, Instant::now());
        (credential, checks)
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_credential() {
        let (mut credential, checks) =
            checked(&[Validity::Accepted, Validity::Accepted, Validity::Refused]);
        assert_eq!(credential.during(pending::<()>()).await, None);
        assert_eq!(checks.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn nothing_is_sent_before_a_check_that_is_due() {
        let (mut credential, checks) = checked(&[Validity::Accepted, Validity::Refused]);
        credential.interval = INTERVAL;
        assert_eq!(credential.during(ready(1)).await, Some(1));
        assert_eq!(credential.during(ready(2)).await, Some(2), "the next check is not due");
        assert_eq!(checks.load(Ordering::SeqCst), 1);
        // A reader that took nothing for a while.
        credential.due = Instant::now();
        assert_eq!(credential.during(ready(3)).await, None);
    }

    #[tokio::test]
    async fn a_check_interrupts_no_work() {
        let (begun, go_on) = (AtomicUsize::new(0), Arc::new(Notify::new()));
        let (seen, signal) = (AtomicUsize::new(0), Arc::clone(&go_on));
        // The fifth check lets the work end.
        let check = move || {
            if seen.fetch_add(1, Ordering::SeqCst) == 4 {
                signal.notify_one();
            }
            ready(Validity::Accepted).boxed()
        };
        let mut credential = StreamCredential::new(Some(Box::new(check)));
        (credential.interval, credential.due) = (Duration::from_millis(1), Instant::now());
        let work = async {
            begun.fetch_add(1, Ordering::SeqCst);
            go_on.notified().await;
            "read"
        };
        assert_eq!(credential.during(work).await, Some("read"));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_credential_that_cannot_be_checked_is_accepted_for_a_minute() {
        let (mut credential, checks) =
            checked(&[Validity::Unknown, Validity::Unknown, Validity::Refused]);
        assert_eq!(credential.during(pending::<()>()).await, None);
        assert_eq!(checks.load(Ordering::SeqCst), 3);
        let (mut credential, checks) = checked(&[Validity::Unknown]);
        credential.accepted = credential.accepted.checked_sub(STALE_MAX).unwrap();
        assert_eq!(credential.during(pending::<()>()).await, None);
        assert_eq!(checks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_host_without_authentication_checks_nothing() {
        let mut credential = StreamCredential::new(None);
        credential.due = Instant::now();
        assert_eq!(credential.during(ready(1)).await, Some(1));
    }
}
