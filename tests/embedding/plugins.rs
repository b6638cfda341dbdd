//! Plugins that the program gives to the host.

use anyhow::{Context as _, Result};
use postrider::{BuildError, Config, Host};

use super::order;
use crate::support::harness::{TestEnv, eventually, guest};

fn config(env: &TestEnv) -> Result<Config> {
    let mut config = env.config()?;
    config.plugins.dir = std::path::PathBuf::default();
    Ok(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugin_given_as_bytes_serves_without_a_folder() -> Result<()> {
    let env = TestEnv::empty("")?;
    let payment = std::fs::read(guest("payment")?)?;
    let builder = Host::builder().config(config(&env)?).plugin_bytes("payment", payment);
    let handle = builder.build().await?.start()?;
    let _ = handle.submit("order", order("1")).await?;
    let app = handle.app();
    eventually("the order to be authorized", || async {
        Ok((app.status(&"order/1".parse()?).await?.as_deref() == Some("authorized")).then_some(()))
    })
    .await?;
    let plugins = app.plugins();
    assert_eq!(plugins.len(), 1);
    assert_eq!((plugins[0].stage.as_deref(), plugins[0].file.as_deref()), (Some("payment"), None));
    let readiness = app.readiness().await;
    assert!(readiness.ready, "there is no folder that could be missing: {readiness:?}");
    Ok(handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_of_the_builder_is_served_and_followed() -> Result<()> {
    let env = TestEnv::empty("")?;
    env.add_plugin("payment", "payment")?;
    let builder = Host::builder().config(config(&env)?).plugin_dir(env.plugins());
    let handle = builder.build().await?.start()?;
    env.add_plugin("shipping", "shipping")?;
    let app = handle.app();
    eventually("the second plugin to serve", || async {
        let serves = |name| app.plugins().iter().any(|one| one.stage.as_deref() == Some(name));
        Ok((serves("payment") && serves("shipping")).then_some(()))
    })
    .await?;
    Ok(handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_plugin_fail_the_build() -> Result<()> {
    let env = TestEnv::empty("")?;
    let builder = Host::builder().config(config(&env)?).plugin_bytes("audit", "not wasm");
    let error = builder.build().await.err().context("it was accepted")?;
    assert!(matches!(&error, BuildError::Plugin { name, .. } if name == "audit"), "{error}");
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("`audit`") && text.contains("not WebAssembly"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_plugins_of_one_name_fail_the_build() -> Result<()> {
    let env = TestEnv::empty("")?;
    let payment = std::fs::read(guest("payment")?)?;
    let builder = Host::builder().config(config(&env)?);
    let builder = builder.plugin_bytes("payment", payment.clone()).plugin_bytes("payment", payment);
    let error = builder.build().await.err().context("it was accepted")?;
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("stage `payment` is served by"), "{text}");
    Ok(())
}
