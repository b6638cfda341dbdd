//! What is wrong with files of certificates and keys.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// A folder with files of certificates and keys.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, text: &str) -> NamedFile {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        NamedFile::new(format!("tls.{name}"), path)
    }

    /// A certificate and its key, as `<name>.crt` and `<name>.key`.
    fn signed(
        &self,
        name: &str,
        adapt: impl FnOnce(&mut CertificateParams),
    ) -> (NamedFile, NamedFile) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        adapt(&mut params);
        let authority = CertificateParams::new(vec![]).unwrap();
        let authority_key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (
            self.add(&format!("{name}.crt"), &certificate.pem()),
            self.add(&format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

fn problems_of(cert: &NamedFile, key: &NamedFile) -> Vec<String> {
    let mut problems = Vec::new();
    let found = identity(cert, key, &mut problems);
    assert_eq!(found.is_none(), !problems.is_empty());
    problems
}

#[test]
fn a_certificate_and_its_key_are_used() {
    let files = Files::new();
    let (cert, key) = files.signed("a", |_| {});
    assert_eq!(problems_of(&cert, &key), Vec::<String>::new());
}

#[test]
fn every_problem_names_the_key_and_the_file() {
    let files = Files::new();
    let (cert, key) = files.signed("good", |_| {});
    let (old, old_key) = files.signed("old", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 2, 3);
    });
    let (early, early_key) = files.signed("early", |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
        params.not_after = date_time_ymd(4001, 1, 1);
    });
    let missing = NamedFile::new("tls.missing", files.0.path().join("missing"));
    let empty = files.add("empty", "");
    let other =
        files.add("other", "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = files.add("locked", locked);
    for (cert, key, expected) in [
        (&missing, &key, &["tls.missing: ", "missing cannot be read: No such file"][..]),
        (&cert, &missing, &["tls.missing: ", "cannot be read"]),
        (&empty, &key, &["tls.empty: ", "no certificate in PEM form"]),
        (&other, &key, &["tls.other: ", "is not an X.509 certificate"]),
        (&cert, &empty, &["tls.empty: ", "no private key in PEM form"]),
        (&cert, &cert, &["tls.good.crt: ", "no private key in PEM form"]),
        (&cert, &locked, &["tls.locked: ", "encrypted with a password"]),
        (&cert, &old_key, &["tls.old.key: ", "is not the key of the certificate in ", "good.crt"]),
        (&old, &old_key, &["tls.old.crt: ", "CN=old", "expired on Feb  3 00:00:00 2021"]),
        (&early, &early_key, &["tls.early.crt: ", "valid from Jan  1 00:00:00 4000"]),
    ] {
        let found = problems_of(cert, key);
        let [problem] = &found[..] else { panic!("{found:?}") };
        assert!(expected.iter().all(|part| problem.contains(part)), "{problem}");
        assert!(!problem.contains("AAAA"), "{problem}");
    }
    // Both files are looked at, whatever is wrong with one.
    assert_eq!(problems_of(&missing, &empty).len(), 2);
}

#[test]
fn a_bundle_of_authorities_may_contain_expired_ones() {
    let files = Files::new();
    let authority = |from: i32| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(from + 20, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    };
    let (expired, valid) = (authority(1990), authority(2020));
    let read = |text: &str| {
        let mut problems = Vec::new();
        let found = authorities(&files.add("ca", text), &mut problems);
        (found.map(|roots| Arc::unwrap_or_clone(roots).len()), problems)
    };
    assert_eq!(read(&format!("{expired}{valid}")), (Some(2), Vec::new()));
    let (found, problems) = read(&expired);
    assert!(
        found.is_none() && problems[0].contains("expired on Jan  1 00:00:00 2010"),
        "{problems:?}"
    );
}
