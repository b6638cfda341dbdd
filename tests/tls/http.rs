//! The API over TLS: HTTP/2, renewed certificates, client certificates, and the command line.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use postrider::Host;
use reqwest::{StatusCode, Version};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::certificates::{Authority, Pair};
use crate::support::harness::{RunningHost, TestEnv, eventually};
use crate::support::process::postrider;

/// The configuration of an encrypted API.
pub(super) fn encrypted(pair: &Pair, more: &str) -> String {
    let (cert, key) = (pair.cert.display(), pair.key.display());
    format!("[http.tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n{more}")
}

fn clients(authority: &Authority, which: &str) -> String {
    let file = authority.file.display();
    format!("client_ca_file = \"{file}\"\nclient_certificates = \"{which}\"\n")
}

async fn start(env: &TestEnv, client: reqwest::Client) -> Result<RunningHost> {
    env.start_as("https://localhost", client, |builder| builder).await
}

/// The certificate that a server shows.
async fn shown(host: &RunningHost, authority: &Authority) -> Result<Vec<u8>> {
    let address = host.client.url.strip_prefix("https://").context("an address")?;
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(authority.trusting(None)?));
    let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().context("a certificate")?;
    Ok(chain.first().context("a certificate")?.to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_speak_http2_or_http1() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let env = TestEnv::empty(&encrypted(&authority.server("server")?, ""))?;
    let host = start(&env, authority.http_client(None, true)?).await?;
    for (http2, version) in [(true, Version::HTTP_2), (false, Version::HTTP_11)] {
        let client = authority.http_client(None, http2)?;
        let answer = client.get(format!("{}/health", host.client.url)).send().await?;
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
        let order = json!({ "order_id": format!("http2-{http2}"), "items": ["Book"] });
        let url = format!("{}/orders", host.client.url);
        let answer = client.post(url).json(&order).send().await?;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await?);
    }
    // Without encryption there is no answer, and no wait for one.
    let plain = host.client.url.replace("https", "http");
    assert!(reqwest::get(format!("{plain}/health")).await.is_err());
    host.stop().await
}

/// Replaces a file as tools do that renew certificates.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    std::fs::copy(from, &part)?;
    Ok(std::fs::rename(part, to)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_under_load_without_a_failed_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let served = authority.server("served")?;
    let env = TestEnv::empty(&encrypted(&served, ""))?;
    let host = start(&env, authority.http_client(None, true)?).await?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for worker in 0..4 {
        let url = format!("{}/orders", host.client.url);
        let http2 = worker % 2 == 0;
        let mut client = authority.http_client(None, http2)?;
        let config = authority.trusting(None)?;
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        load.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let id = count.fetch_add(1, Ordering::Relaxed);
                // Two keep their connections, two need a handshake for each request.
                if worker >= 2 {
                    let builder = reqwest::Client::builder();
                    client = builder.tls_backend_preconfigured(config.clone()).build()?;
                }
                let order = json!({ "order_id": format!("o-{id}"), "items": ["Book"] });
                let answer = client.post(&url).json(&order).send().await?;
                ensure!(answer.status() == StatusCode::ACCEPTED, "{}", answer.text().await?);
            }
            Ok(())
        }));
    }
    let mut last = shown(&host, &authority).await?;
    for renewal in 0..3 {
        let new = authority.server(&format!("new-{renewal}"))?;
        // In both orders: for a while, the key is not that of the certificate.
        let files = [(&new.cert, &served.cert), (&new.key, &served.key)];
        for at in if renewal % 2 == 0 { [0, 1] } else { [1, 0] } {
            let before = count.load(Ordering::Relaxed);
            replace(files[at].0, files[at].1)?;
            eventually("requests after the change", || async {
                Ok((count.load(Ordering::Relaxed) > before + 20).then_some(()))
            })
            .await?;
        }
        let previous = std::mem::take(&mut last);
        last = eventually("the new certificate", || async {
            let now = shown(&host, &authority).await?;
            Ok((now != previous).then_some(now))
        })
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await??;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_required_or_optional() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let other = Authority::new(folder.path(), "other")?;
    let (server, client) = (authority.server("server")?, authority.client("billing")?);
    let stranger = other.client("stranger")?;
    for which in ["required", "optional"] {
        let env = TestEnv::empty(&encrypted(&server, &clients(&authority, which)))?;
        let host = start(&env, authority.http_client(Some(&client), true)?).await?;
        let ask = async |identity: Option<&Pair>| -> Result<bool> {
            let client = authority.http_client(identity, false)?;
            let answer = client.get(format!("{}/health", host.client.url)).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()))
        };
        assert!(ask(Some(&client)).await?, "{which}");
        assert_eq!(ask(None).await?, which == "optional", "{which}");
        assert!(!ask(Some(&stranger)).await?, "{which}");
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_used_are_reported_together() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let (good, old) = (authority.server("good")?, authority.expired_server("old")?);
    let other = authority.server("other")?;
    let missing = folder.path().join("missing");
    let mixed = Pair { cert: good.cert.clone(), key: other.key.clone() };
    let none = Pair { cert: missing.clone(), key: good.cert.clone() };
    let ca = format!("client_ca_file = \"{}\"\n", missing.display());
    for (pair, more, expected) in [
        (&old, "", &["http.tls.cert_file: ", "CN=old", "expired on Jan  1 00:00:00 2021"][..]),
        (&mixed, "", &["http.tls.key_file: ", "is not the key of the certificate in"]),
        (
            &none,
            &*ca,
            &[
                "http.tls.cert_file: ",
                "missing cannot be read",
                "http.tls.key_file: ",
                "has no private key",
                "http.tls.client_ca_file: ",
            ],
        ),
    ] {
        let env = TestEnv::empty(&encrypted(pair, more))?;
        let Err(error) = env.config() else { anyhow::bail!("{expected:?} was not reported") };
        let text = error.to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        let key = std::fs::read_to_string(&other.key)?;
        let secret = key.lines().nth(1).context("a line of the key")?;
        assert!(!text.contains(secret), "{text}");
    }
    // A configuration that was built in code is checked when the host is built.
    let mut config = postrider::Config::default();
    config.http.tls.cert_file = Some(missing.clone());
    config.http.tls.key_file = Some(missing);
    let error = Host::builder().config(config).build().await.err().context("an error")?;
    assert!(error.to_string().contains("http.tls.cert_file"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_verify_the_host_and_show_their_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let other = Authority::new(folder.path(), "other")?;
    let (server, client) = (authority.server("server")?, authority.client("operator")?);
    let env = TestEnv::empty(&encrypted(&server, &clients(&authority, "required")))?;
    let host = start(&env, authority.http_client(Some(&client), true)?).await?;
    let url = host.client.url.clone();
    let file = |path: &Path| path.display().to_string();
    let (ca, wrong) = (file(&authority.file), file(&other.file));
    let (cert, key) = (file(&client.cert), file(&client.key));
    let list = ["stages", "list", "--url", &url];
    let identity = ["--cert-file", &cert, "--key-file", &key];
    for (options, code, expected) in [
        (&[&["--ca-file", &ca][..], &identity].concat()[..], 0, ""),
        (&[&["--ca-file", &wrong][..], &identity].concat(), 3, "an authority that is not trusted"),
        (&identity, 3, "an authority that is not trusted"),
        (&["--ca-file", &ca], 3, "the server requires a client certificate"),
        (&["--ca-file", &key], 1, "--ca-file: "),
        (&["--cert-file", &cert], 2, "--key-file"),
    ] {
        let (found, _, errors) = postrider(&[&list[..], options].concat()).await?;
        assert!(found == code && errors.contains(expected), "{options:?}: {found} {errors}");
    }
    // The name in the certificate counts.
    let address = url.replace("localhost", "127.0.0.1");
    let options = [&["stages", "list", "--url", &address, "--ca-file", &ca][..], &identity];
    let (code, _, errors) = postrider(&options.concat()).await?;
    assert!(code == 3 && errors.contains("is not for this host name"), "{errors}");
    host.stop().await
}
