//! How many requests a client may send: by its address before its credentials are checked, so that
//! guessing them is limited, then by its principal.
//!
//! The address is that of the connection: what a proxy says in a header is not believed, so behind a proxy all
//! requests come from one address. Bounds: [`ADDRESSES_MAX`] and [`PRINCIPALS_MAX`] clients are
//! remembered. Beyond that the one that has been quiet for the longest is forgotten, and begins
//! with its whole burst when it returns.

use std::net::{IpAddr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use governor::Quota;

use self::clients::{Clients, Usage};
pub(super) use self::sender::RequestSender;
use super::Peer;
use super::auth::Entrance;
use super::problem::{Answer, Problem};
use crate::app::Refusal;
use crate::config::RateLimits;
use crate::domain::access::Requester;

pub(super) mod clients;
mod sender;

/// Most addresses that a process remembers.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Most principals that a namespace remembers.
const PRINCIPALS_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// Bits of an IPv6 address that name a network: one client has all addresses in it.
const IPV6_PREFIX_BITS: u32 = 64;

/// The clients of a process by their addresses.
pub(super) type Addresses = Clients<IpAddr>;
/// The clients of a namespace by the ids of their principals.
pub(super) type Principals = Clients<String>;

/// No address has sent a request.
pub(super) fn addresses(settings: RateLimits) -> Addresses {
    let quota = quota(settings.per_address_per_s, settings.per_address_burst);
    Clients::new(quota, ADDRESSES_MAX)
}

/// No principal has sent a request.
pub(super) fn principals(settings: RateLimits) -> Principals {
    let quota = quota(settings.per_principal_per_s, settings.per_principal_burst);
    Clients::new(quota, PRINCIPALS_MAX)
}

/// None: there is no limit.
fn quota(per_s: u32, burst: u32) -> Option<Quota> {
    let per_s = NonZeroU32::new(per_s)?;
    Some(Quota::per_second(per_s).allow_burst(NonZeroU32::new(burst).unwrap_or(per_s)))
}

/// The client at an address: all of an IPv6 network are one, and IPv4 is the same over both protocols.
fn client_at(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host_bits = u128::BITS - IPV6_PREFIX_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The address of a client as people read it.
pub(super) fn shown(client: &IpAddr) -> String {
    match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(prefix) => format!("{prefix}/{IPV6_PREFIX_BITS}"),
    }
}

impl Entrance {
    /// Lets a request pass unless its address has sent too many. Returns what that address holds; none if
    /// the program that serves the router does not tell the address.
    pub(super) fn admit_address(&self, request: &Request) -> Answer<Option<Arc<Usage>>> {
        let Some(peer) = request.extensions().get::<Arc<Peer>>() else { return Ok(None) };
        let admitted = self.addresses.admit(&client_at(peer.address.ip()));
        admitted.map(Some).map_err(|wait| {
            self.app.refusals().count(Refusal::AddressRate);
            too_many("from this address (`http.rate_limits.per_address_per_s`)", wait)
        })
    }

    /// Lets a request with a requester pass unless its principal has sent too many.
    pub(super) fn admit_principal(
        &self,
        request: &Request,
        address: Option<Arc<Usage>>,
    ) -> Answer<RequestSender> {
        let requester = request.extensions().get::<Requester>().ok_or_else(Problem::internal)?;
        let id = requester.principal.id();
        match self.principals.admit(id) {
            Ok(principal) => Ok(RequestSender::new(principal, address)),
            Err(wait) => {
                self.app.refusals().count(Refusal::PrincipalRate);
                let who = format!("of `{id}` (`http.rate_limits.per_principal_per_s`)");
                Err(too_many(&who, wait))
            }
        }
    }
}

fn too_many(of_whom: &str, wait: Duration) -> Problem {
    let wait_s = (wait.as_millis().div_ceil(1_000) as u64).max(1);
    Problem::too_many_requests(format!("too many requests {of_whom}, retry"), wait_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_an_ipv6_network_are_one_client() {
        let client = |address: &str| shown(&client_at(address.parse().unwrap()));
        assert_eq!(client("2001:db8:0:1::7"), "2001:db8:0:1::/64");
        assert_eq!(client("2001:db8:0:1:ffff:ffff:ffff:ffff"), "2001:db8:0:1::/64");
        assert_eq!(client("2001:db8:0:2::7"), "2001:db8:0:2::/64");
        assert_eq!(client("192.0.2.7"), "192.0.2.7");
        assert_eq!(client("::ffff:192.0.2.7"), "192.0.2.7", "IPv4 at a socket for both");
    }

    #[test]
    fn without_a_burst_of_its_own_a_quota_allows_that_of_a_second() {
        let bursts = |per_s, burst| quota(per_s, burst).map(|quota| quota.burst_size().get());
        assert_eq!((bursts(0, 0), bursts(5, 0), bursts(5, 1)), (None, Some(5), Some(1)));
    }

    #[test]
    fn clients_are_told_whole_seconds_after_which_they_are_admitted() {
        for (wait_ms, expected) in [(1, "1"), (1_000, "1"), (1_001, "2")] {
            let wait = Duration::from_millis(wait_ms);
            let answer = axum::response::IntoResponse::into_response(too_many("of a test", wait));
            assert_eq!(answer.status(), 429);
            assert_eq!(answer.headers()["retry-after"], expected);
        }
    }
}
