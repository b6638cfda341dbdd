//! Who sent a request.

use std::net::SocketAddr;

use crate::domain::client_certificate::ClientCertificate;

/// The other end of a request's connection. An `Arc` of it is in the extensions of each request that
/// came by the host's own listener.
#[derive(Debug)]
pub struct Peer {
    /// Address and port.
    pub address: SocketAddr,
    /// The certificate that it showed, which was verified.
    pub certificate: Option<ClientCertificate>,
    /// Whether the host's own listener encrypts the connection.
    pub encrypted: bool,
    /// Whether all places for connections are taken, so that only health checks are answered.
    pub only_health: bool,
}
