//! Postgres over TLS: modes, authorities, host names, and client certificates.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use postrider::{Config, Host};

use crate::support::certificates::Authority;
use crate::support::harness::eventually;
use postrider_tests::private_servers::{PostgresTls, PrivatePostgres};

/// Everyone needs encryption; the user `certified` needs a certificate that says so.
pub(super) const ACCESS: &str =
    "hostssl all certified all cert\nhostssl all all all trust\nlocal all all trust\n";

/// Whether a host opens its store; otherwise why not.
async fn open(url: &str) -> Result<Option<String>> {
    let mut config = Config::default();
    url.clone_into(&mut config.store.url);
    match Host::builder().config(config).build().await {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(format!("{:#}", anyhow::Error::from(error)))),
    }
}

async fn refused(url: &str, expected: &[&str]) -> Result<()> {
    let why = open(url).await?.with_context(|| format!("{url} was accepted"))?;
    ensure!(expected.iter().all(|part| why.contains(part)), "{url}: {why}");
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_postgres_are_verified() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let other = Authority::new(folder.path(), "other")?;
    let server = authority.server("server")?;
    let tls = PostgresTls { cert: &server.cert, key: &server.key, ca: &authority.file };
    let postgres = PrivatePostgres::start_encrypted(folder.path(), &tls, ACCESS)?;
    let port = postgres.port();
    let at = |user: &str, host: &str, query: &str| {
        format!("postgres://{user}@{host}:{port}/postgres?{query}")
    };
    let (ca, wrong) = (text(&authority.file), text(&other.file));
    let verified = format!("sslmode=verify-full&sslrootcert={ca}");
    // The driver knows nothing of the authority without its file.
    for query in ["sslmode=require", &verified, &format!("sslmode=verify-ca&sslrootcert={ca}")] {
        let url = at("postgres", "localhost", query);
        ensure!(open(&url).await?.is_none(), "{query}: {:?}", open(&url).await?);
    }
    for (query, expected) in [
        ("sslmode=verify-full", "an authority that is not trusted"),
        (&*format!("sslmode=verify-full&sslrootcert={wrong}"), "an authority that is not trusted"),
        (&*format!("sslmode=require&sslrootcert={wrong}"), "an authority that is not trusted"),
        ("sslmode=disable", "no encryption"),
    ] {
        refused(&at("postgres", "localhost", query), &[expected]).await?;
    }
    let by_address = at("postgres", "127.0.0.1", &verified);
    refused(
        &by_address,
        &["cannot encrypt the connection to Postgres at 127.0.0.1", "is not for this host name"],
    )
    .await?;

    // The user of the certificate, another user's certificate, none, and one that nobody knows.
    sql(&postgres, "CREATE ROLE certified LOGIN SUPERUSER").await?;
    let identity = |name: &str| -> Result<String> {
        let pair = authority.client(name)?;
        Ok(format!("{verified}&sslcert={}&sslkey={}", text(&pair.cert), text(&pair.key)))
    };
    let certified = at("certified", "localhost", &identity("certified")?);
    ensure!(open(&certified).await?.is_none(), "{:?}", open(&certified).await?);
    refused(
        &at("certified", "localhost", &identity("another")?),
        &["certificate authentication failed"],
    )
    .await?;
    refused(&at("certified", "localhost", &verified), &["requires a valid client certificate"])
        .await?;
    let stranger = other.client("certified")?;
    let shown =
        format!("{verified}&sslcert={}&sslkey={}", text(&stranger.cert), text(&stranger.key));
    refused(&at("certified", "localhost", &shown), &["does not accept this host's certificate"])
        .await?;

    let expired = authority.expired_server("expired")?;
    postgres.replace_certificate(&expired.cert, &expired.key)?;
    let url = at("postgres", "localhost", &verified);
    let why = eventually("the expired certificate", || open(&url)).await?;
    ensure!(why.contains("the server's certificate has expired"), "{why}");
    Ok(())
}

async fn sql(postgres: &PrivatePostgres, text: &'static str) -> Result<()> {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(&postgres.url()).await?;
    sqlx::raw_sql(text).execute(&mut connection).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_without_encryption_is_refused_if_the_url_demands_it() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // The request for encryption has eight bytes; `N` declines it.
            let _ = stream.read_exact(&mut [0; 8]).and_then(|()| stream.write_all(b"N"));
        }
    });
    refused(
        &format!("postgres://u@localhost:{port}/x?sslmode=require"),
        &["cannot encrypt the connection", "does not offer it: set `ssl = on`"],
    )
    .await
}

#[tokio::test]
async fn half_a_configuration_is_refused() -> Result<()> {
    for (query, expected) in [
        ("sslrootcert=/ca", "`sslrootcert` needs an encrypted connection"),
        ("sslmode=prefer&sslcert=/c&sslkey=/k", "`sslcert` needs an encrypted connection"),
        ("sslmode=require&sslcert=/c", "add sslkey"),
        ("sslmode=require&sslkey=/k", "add sslcert"),
        ("sslmode=verify-full&sslrootcert=/no/ca", "store.url: sslrootcert: /no/ca cannot be read"),
    ] {
        let url = format!("postgres://u:secret@localhost/x?{query}");
        let Err(error) = Config::from_toml(&format!("store.url = \"{url}\"")) else {
            bail!("{query} was accepted");
        };
        let text = error.to_string();
        ensure!(text.contains(expected) && !text.contains("secret"), "{query}: {text}");
    }
    Ok(())
}
