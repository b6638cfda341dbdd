//! What a certificate says.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use crate::domain::client_certificate::ClientCertificate;
use crate::domain::event::hex;

/// Reads the certificate of a client; none when it is no X.509 certificate.
pub(crate) fn client_certificate(der: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let common_name = subject.iter_common_name().next();
    Some(ClientCertificate {
        subject: subject.to_string(),
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        dns_names: names.iter().filter_map(dns_name).collect(),
        uris: names.iter().filter_map(uri).collect(),
        fingerprint: hex(&Sha256::digest(der)),
    })
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    }
}

fn uri(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    }
}

/// Why a certificate cannot be used now; none if it can.
pub(super) fn problem(der: &CertificateDer<'_>) -> Option<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Some("contains something that is not an X.509 certificate".to_owned());
    };
    let (subject, validity, now) = (certificate.subject(), certificate.validity(), ASN1Time::now());
    if now > validity.not_after {
        let since = validity.not_after;
        return Some(format!("has a certificate (`{subject}`) that expired on {since}: renew it"));
    }
    if now < validity.not_before {
        let from = validity.not_before;
        return Some(format!(
            "has a certificate (`{subject}`) that is valid from {from} on: check the clock of this \
             machine, or use another certificate"
        ));
    }
    None
}
