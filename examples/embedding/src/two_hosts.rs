//! Two hosts in one process: one serves its API on a listener, the other has none.

use std::error::Error;

use postrider::{Config, Host};

use crate::approve::{Approve, Order};

pub async fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let config = |name: &str| {
        let mut config = Config::default();
        config.namespace = name.to_owned();
        config.store.url = format!("sqlite:{}/{name}.db", folder.path().display());
        config
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let books = Host::builder().config(config("books")).stage(Approve).listener(listener);
    let books = books.build().await?.start()?;
    let lamps = Host::builder().config(config("lamps")).build().await?.start()?;
    assert_eq!((books.address(), lamps.address()), (Some(address), None));
    let _ = books.submit("order", Order::of_a_book("1")).await?;
    assert_eq!(lamps.app().status(&"order/1".parse()?).await?, None);
    lamps.shutdown().await?;
    assert!(books.app().readiness().await.ready);
    // Dropping the other one stops it as well, without a grace period.
    drop(books);
    Ok(())
}
