//! The host's metrics in a registry of the embedding program.

use anyhow::Result;
use postrider::Host;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::{approving, order};
use crate::support::harness::{TestEnv, eventually};

fn text(registry: &Registry) -> Result<String> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_two_hosts_are_in_the_registry_of_the_program() -> Result<()> {
    let (one, two) = (TestEnv::empty("")?, TestEnv::empty("")?);
    let mut registry = Registry::default();
    let mut handles = Vec::new();
    for (name, env) in [("one", &one), ("two", &two)] {
        let labelled = registry.sub_registry_with_label(("host".into(), name.into()));
        let builder = approving(Host::builder().config(env.config()?)).metrics(labelled);
        handles.push(builder.build().await?.start()?);
    }
    let _ = handles[0].submit("order", order("1")).await?;
    let counted = |host: &str, count: u32| {
        format!(
            "postrider_deliveries_total{{host=\"{host}\",stage=\"approve\",outcome=\"done\"}} {count}"
        )
    };
    eventually("the delivery to be counted", || async {
        Ok(text(&registry)?.contains(&counted("one", 1)).then_some(()))
    })
    .await?;
    let found = text(&registry)?;
    assert!(found.contains(&counted("two", 0)), "hosts are counted apart: {found}");
    for handle in handles {
        handle.shutdown().await?;
    }
    assert_eq!(text(&registry)?, "# EOF\n", "hosts that are gone have no metrics");
    Ok(())
}
