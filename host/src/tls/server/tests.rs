//! Files of a server that change while it serves.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use super::*;

/// Writes a new certificate and its key.
fn renew(folder: &TempDir, name: &str) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(folder.path().join("crt"), cert.pem()).unwrap();
    std::fs::write(folder.path().join("key"), signing_key.serialize_pem()).unwrap();
}

fn files(folder: &TempDir) -> ServerFiles {
    ServerFiles {
        cert: NamedFile::new("cert_file", folder.path().join("crt")),
        key: NamedFile::new("key_file", folder.path().join("key")),
        client_ca: None,
        clients_must: false,
    }
}

#[test]
fn only_files_that_can_be_used_replace_others() {
    let folder = tempfile::tempdir().unwrap();
    renew(&folder, "one.example");
    let tls = ReloadedTls::load(files(&folder)).unwrap();
    let first = tls.current();
    tls.tick();
    assert!(Arc::ptr_eq(&first, &tls.current()), "nothing changed");
    // Between the two writes of a renewal, the key is not that of the certificate.
    let key = std::fs::read(folder.path().join("key")).unwrap();
    renew(&folder, "two.example");
    let renewed = std::fs::read(folder.path().join("key")).unwrap();
    std::fs::write(folder.path().join("key"), key).unwrap();
    tls.tick();
    assert!(Arc::ptr_eq(&first, &tls.current()), "the key belongs to the first certificate");
    std::fs::write(folder.path().join("key"), renewed).unwrap();
    tls.tick();
    let second = tls.current();
    assert!(!Arc::ptr_eq(&first, &second), "the certificate was renewed");
    std::fs::remove_file(folder.path().join("crt")).unwrap();
    tls.tick();
    assert!(Arc::ptr_eq(&second, &tls.current()), "a missing file replaces nothing");
}

#[test]
fn every_problem_is_found_before_a_server_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ServerFiles {
        client_ca: Some(NamedFile::new("client_ca_file", folder.path().join("ca"))),
        ..files(&folder)
    };
    let mut problems = Vec::new();
    check_server(&missing, &mut problems);
    let keys: Vec<&str> = problems.iter().filter_map(|one| one.split(':').next()).collect();
    assert_eq!(keys, ["cert_file", "key_file", "client_ca_file"], "{problems:?}");
}
