//! Calls against servers of the test's own, with names that resolve to what the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::dial::Dialer;
use super::*;

type LookedUpNames = Arc<Mutex<Vec<String>>>;

fn grant(scheme: &str, host: &str, port: u16, allow_private: bool) -> Grants {
    let methods = vec!["GET".into()];
    Grants {
        http: vec![HttpGrant {
            scheme: scheme.into(),
            host: host.into(),
            port: Some(port),
            methods,
            allow_private,
        }],
        ..Grants::default()
    }
}

/// Every name resolves to `addresses`; what was looked up is kept.
fn egress(
    grants: &Grants,
    addresses: &[&str],
    roots: rustls::RootCertStore,
) -> (Egress, LookedUpNames) {
    let asked = LookedUpNames::default();
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let resolve = {
        let asked = Arc::clone(&asked);
        move |host: &str, port: u16| {
            asked.lock().unwrap().push(host.to_owned());
            Ok(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect())
        }
    };
    (Egress::with_dialer(grants, Dialer::with(Arc::new(resolve), roots)), asked)
}

const PATIENCE: Patience =
    Patience { whole: Duration::from_mins(1), connect: None, answer: None, between: None };

/// The answer's body, or why there is none.
async fn call(egress: &Egress, url: &str, patience: Patience) -> Result<String, CallError> {
    let (parts, body) = Request::get(url).body(Empty::<bytes::Bytes>::new()).unwrap().into_parts();
    let target = egress.admit(&parts, 1)?;
    let (answer, driver) = egress.send(&target, Request::from_parts(parts, body), patience).await?;
    let (_, body) = tokio::join!(driver, answer.into_body().collect());
    Ok(String::from_utf8(body?.to_bytes().to_vec()).unwrap())
}

/// Answers every connection with the head that it received.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    port
}

async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
    let _ = stream.write_all(&[text.as_bytes(), &head].concat()).await;
    let _ = stream.shutdown().await;
}

fn no_roots() -> rustls::RootCertStore {
    rustls::RootCertStore::empty()
}

#[tokio::test]
async fn calls_connect_only_to_checked_addresses() {
    let port = echo().await;
    for private in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "fd00::1",
        "0.0.0.0",
    ] {
        let (egress, asked) =
            egress(&grant("http", "api.example", port, false), &[private], no_roots());
        let refused =
            call(&egress, &format!("http://api.example:{port}/"), PATIENCE).await.unwrap_err();
        assert!(matches!(refused, CallError::Prohibited { .. }), "{private}: {refused}");
        assert_eq!(*asked.lock().unwrap(), ["api.example"]);
    }
    // Allowed, the same name leads there, and says so itself.
    let (allowed, _) =
        egress(&grant("http", "api.example", port, true), &["127.0.0.1"], no_roots());
    let head =
        call(&allowed, &format!("http://API.example:{port}/path?query"), PATIENCE).await.unwrap();
    assert!(
        head.starts_with("GET /path?query HTTP/1.1\r\n")
            && head.contains(&format!("host: api.example:{port}\r\n")),
        "{head}"
    );
    // An address that was granted as such is looked up nowhere, and is no exception.
    let (literal, asked) =
        egress(&grant("http", "127.0.0.1", port, false), &["1.1.1.1"], no_roots());
    assert!(matches!(
        call(&literal, &format!("http://127.0.0.1:{port}/"), PATIENCE).await,
        Err(CallError::Prohibited { .. })
    ));
    assert!(asked.lock().unwrap().is_empty());
    // A name that leads nowhere.
    let (nowhere, _) = egress(&grant("http", "api.example", port, true), &[], no_roots());
    assert!(matches!(
        call(&nowhere, &format!("http://api.example:{port}/"), PATIENCE).await,
        Err(CallError::Name(_))
    ));
}

#[test]
fn private_addresses_among_public_ones_are_skipped() {
    let found = || {
        ["10.0.0.1:443", "1.1.1.1:443", "[::1]:443", "[2606:4700::1]:443"]
            .map(|address| address.parse().unwrap())
            .to_vec()
    };
    let mut target = Target::of(&"https://api.example/".parse().unwrap()).unwrap();
    let public = dial::allowed(&target, found()).unwrap();
    assert_eq!(
        public.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["1.1.1.1:443", "[2606:4700::1]:443"]
    );
    target.allow_private = true;
    assert_eq!(dial::allowed(&target, found()).unwrap().len(), 4);
}

#[tokio::test]
async fn tls_verifies_the_name_not_the_address() {
    let signed = rcgen::generate_simple_self_signed(vec!["api.example".into()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let server =
        server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let names = LookedUpNames::default();
    tokio::spawn({
        let names = Arc::clone(&names);
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not trust it goes away.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                names
                    .lock()
                    .unwrap()
                    .push(stream.get_ref().1.server_name().unwrap_or("none").to_owned());
                tokio::spawn(answer(stream));
            }
        }
    });
    let mut roots = no_roots();
    roots.add(certificate).unwrap();
    let (trusted, _) =
        egress(&grant("https", "api.example", port, true), &["127.0.0.1"], roots.clone());
    let head = call(&trusted, &format!("https://api.example:{port}/"), PATIENCE).await.unwrap();
    assert!(head.contains(&format!("host: api.example:{port}\r\n")), "{head}");
    assert_eq!(*names.lock().unwrap(), ["api.example"]);
    // Its certificate is for another name, or from nobody that is trusted.
    let (other, _) = egress(&grant("https", "other.example", port, true), &["127.0.0.1"], roots);
    assert!(matches!(
        call(&other, &format!("https://other.example:{port}/"), PATIENCE).await,
        Err(CallError::Tls(_))
    ));
    let (untrusted, _) =
        egress(&grant("https", "api.example", port, true), &["127.0.0.1"], no_roots());
    assert!(matches!(
        call(&untrusted, &format!("https://api.example:{port}/"), PATIENCE).await,
        Err(CallError::Tls(_))
    ));
}

#[tokio::test]
async fn calls_over_the_limits_wait_for_a_slot() {
    let port = echo().await;
    let url = format!("http://127.0.0.1:{port}/");
    let one = Grants { http_concurrency: 1, ..grant("http", "127.0.0.1", port, true) };
    let (egress, _) = egress(&one, &[], no_roots());
    // The place is kept for as long as the answer's body is.
    let (parts, body) = Request::get(&url).body(Empty::<bytes::Bytes>::new()).unwrap().into_parts();
    let target = egress.admit(&parts, 1).unwrap();
    let held = egress.send(&target, Request::from_parts(parts, body), PATIENCE).await.unwrap();
    let hasty = Patience { whole: Duration::from_millis(50), ..PATIENCE };
    assert!(matches!(call(&egress, &url, hasty).await, Err(CallError::Busy("http_concurrency"))));
    drop(held);
    call(&egress, &url, PATIENCE).await.unwrap();

    let slow = Grants { http_rate_per_s: Some(1), ..grant("http", "127.0.0.1", port, true) };
    let (egress, _) = self::egress(&slow, &[], no_roots());
    call(&egress, &url, PATIENCE).await.unwrap();
    assert!(matches!(call(&egress, &url, hasty).await, Err(CallError::Busy("http_rate_per_s"))));
}

#[tokio::test]
async fn an_endless_lookup_keeps_its_slot() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let resolve = move |_: &str, _: u16| {
        let _ = gate.lock().unwrap().recv();
        Ok(vec![])
    };
    let one = Grants { http_concurrency: 1, ..grant("http", "api.example", 80, true) };
    let egress = Egress::with_dialer(&one, Dialer::with(Arc::new(resolve), no_roots()));
    let hasty = Patience { whole: Duration::from_millis(50), ..PATIENCE };
    assert!(matches!(
        call(&egress, "http://api.example/", hasty).await,
        Err(CallError::TimedOut(Phase::Name))
    ));
    assert!(matches!(call(&egress, "http://api.example/", hasty).await, Err(CallError::Busy(_))));
    drop(release);
    assert!(matches!(
        call(&egress, "http://api.example/", PATIENCE).await,
        Err(CallError::Name(_))
    ));
}

#[test]
fn calls_of_an_attempt_are_limited_and_refused_urls_are_reported_as_written() {
    let (egress, _) = egress(&grant("https", "api.example", 443, false), &[], no_roots());
    let (parts, ()) = Request::get("https://api.example/").body(()).unwrap().into_parts();
    assert!(egress.admit(&parts, 10).is_ok());
    assert!(matches!(egress.admit(&parts, 11), Err(CallError::TooManyCalls(10))));
    let (parts, ()) = Request::builder()
        .method(Method::POST)
        .uri("https://API.example/secret")
        .body(())
        .unwrap()
        .into_parts();
    assert_eq!(
        egress.admit(&parts, 1).unwrap_err().to_string(),
        "`POST https://API.example` is not granted"
    );
    assert!(Egress::new(&Grants::default()).is_none());
}

#[tokio::test]
async fn mocks_answer_what_is_granted() {
    let mock = |url: &str, status| HttpMock {
        method: "GET".into(),
        url: url.into(),
        status,
        headers: vec![("x-mock".into(), "yes".into())],
        body: format!("{{\"from\":\"{url}\"}}").into(),
    };
    let mocks = vec![mock("https://bank.example/pay", 200), mock("http://10.0.0.1:81/x?a=1", 503)];
    assert!(mocks.iter().all(|mock| mock.problem().is_none()));
    assert!(mock("/pay", 200).problem().is_some());
    let egress = Egress::mocked(&Grants::default(), mocks.clone());
    for (url, expected) in [
        ("https://bank.example/pay?x=1", "https://bank.example/pay"),
        ("http://10.0.0.1:81/x?a=1", "a=1"),
        ("https://bank.example/other", "no answer to GET https://bank.example/other"),
    ] {
        assert!(call(&egress, url, PATIENCE).await.unwrap().contains(expected), "{url}");
    }
    let refused = call(&egress, "https://evil.example/", PATIENCE).await.unwrap_err();
    assert!(matches!(refused, CallError::NotGranted(_)), "{refused}");
    // The operator's grants decide where there are some.
    let granted = Egress::mocked(&grant("https", "other.example", 443, false), mocks);
    let refused = call(&granted, "https://bank.example/pay", PATIENCE).await.unwrap_err();
    assert!(matches!(refused, CallError::NotGranted(_)), "{refused}");
}
