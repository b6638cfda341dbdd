//! The client's end of a connection: what it trusts, and the certificate that it shows.

#[cfg(feature = "http")]
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
#[cfg(feature = "http")]
use rustls::pki_types::ServerName;
#[cfg(feature = "http")]
use tokio::net::TcpStream;
#[cfg(feature = "http")]
use tokio_rustls::TlsConnector;
#[cfg(feature = "http")]
use tokio_rustls::client::TlsStream;

use super::files::{NamedFile, authorities, identity};
use super::trust::{builder, system_roots, trusting_the_system};

/// The files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities that it trusts; none: those of the machine.
    pub ca: Option<NamedFile>,
    /// The certificate that it shows, and its key.
    pub identity: Option<(NamedFile, NamedFile)>,
}

/// Reads the files of a client. They are read for each connection, so renewed files take effect with
/// the next one.
///
/// # Errors
/// Every problem of the files.
pub fn client_config(files: &ClientFiles) -> Result<Arc<ClientConfig>, Vec<String>> {
    if files.ca.is_none() && files.identity.is_none() {
        return Ok(trusting_the_system());
    }
    let mut problems = Vec::new();
    let roots = match &files.ca {
        Some(ca) => authorities(ca, &mut problems),
        None => Some(Arc::new(system_roots())),
    };
    let own = files.identity.as_ref().map(|(cert, key)| identity(cert, key, &mut problems));
    let (Some(roots), Some(own)) = (roots, own.map_or(Some(None), |own| own.map(Some))) else {
        return Err(problems);
    };
    let builder = builder().with_root_certificates(roots);
    let Some(own) = own else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let config = builder.with_client_auth_cert(own.chain, own.key);
    config.map(Arc::new).map_err(|error| vec![format!("the certificate cannot be used: {error}")])
}

/// Encrypts a connection to a server for whose name an authority of the machine vouches.
#[cfg(feature = "http")]
pub async fn connect(name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(trusting_the_system()).connect(name, stream).await
}

/// Why an encrypted connection to a server failed, for the operator; none if it is not for a
/// certificate.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return reason(found);
        }
        // An I/O error has the error that it wraps as its value, and that one's source as its own.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

fn reason(error: &rustls::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Invalid, Error};
    let what = match error {
        Error::InvalidCertificate(Invalid::UnknownIssuer) => {
            "the server's certificate is signed by an authority that is not trusted: name the \
             certificate of the authority as CA file"
        }
        Error::InvalidCertificate(Invalid::Expired | Invalid::ExpiredContext { .. }) => {
            "the server's certificate has expired: renew it on the server"
        }
        Error::InvalidCertificate(
            Invalid::NotValidForName | Invalid::NotValidForNameContext { .. },
        ) => "the server's certificate is not for this host name: connect to a name that it lists",
        Error::InvalidCertificate(_) => "the server's certificate is not valid",
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the server requires a client certificate: name one and its key"
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied,
        ) => "the server does not accept this host's certificate",
        _ => return None,
    };
    Some(format!("{what} ({error})"))
}
