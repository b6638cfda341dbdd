//! Namespaces share a server, or a process, and nothing else.

use anyhow::{Context as _, Result, ensure};
use postrider::internals::{Task, TaskFaults};
use postrider::{Host, RunError};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::namespaces::{TwoNamespaces, client_of};

mod flood;

async fn post(client: &Client, id: &str, user: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": user, "items": ["Book"], "total": 1 });
    let (status, told) = client.post("/orders", &order).await?;
    ensure!(status == StatusCode::ACCEPTED, "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_on_one_database_do_not_affect_each_other() -> Result<()> {
    let one = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let mut other = TestEnv::shipped(AMPLE_STOCK)?;
    other.servers = Some(one.servers.as_ref().context("servers")?.beside());
    let (here, there) = (one.start().await?, other.start().await?);
    // The same id in both, with different content.
    post(&here.client, "n-1", "here").await?;
    here.client.wait_for_status("n-1", "ready").await?;
    assert_eq!(there.client.get("/orders/n-1").await?.0, StatusCode::NOT_FOUND);
    let (status, _) = here.client.post("/stages/inventory/pause", &json!({})).await?;
    assert_eq!(status, StatusCode::OK);
    post(&there.client, "n-1", "there").await?;
    let order = there.client.wait_for_status("n-1", "ready").await?;
    assert_eq!(order["customer"], "there", "{order}");
    post(&here.client, "n-2", "here").await?;
    here.client.wait_for_status("n-2", "authorized").await?;
    assert_eq!(there.client.get_all("/orders?limit=10").await?.len(), 1);
    assert_eq!(here.client.get_all("/orders?limit=10").await?.len(), 2);
    // What waits for a retry or a restart is taken over by its own namespace only.
    here.stop().await?;
    eventually("the other namespace to be idle", || async {
        let (_, events) = there.client.get("/events?limit=100").await?;
        Ok(events["items"].as_array().is_some_and(|events| events.len() >= 5).then_some(()))
    })
    .await?;
    assert_eq!(
        other.query_count("SELECT count(*) FROM events WHERE subject_key = 'order/n-2'").await?,
        0
    );
    assert_eq!(
        one.query_count("SELECT count(*) FROM events WHERE subject_key = 'order/n-2'").await?,
        2
    );
    there.stop().await
}

on_both_back_ends![
    namespaces_of_one_configuration_are_apart,
    the_api_of_a_namespace_is_below_its_path,
    shutdown_finishes_the_work_of_every_namespace,
];

async fn namespaces_of_one_configuration_are_apart(backend: Backend) -> Result<()> {
    let two = TwoNamespaces::create(backend).await?;
    let host = two.env.start().await?;
    let (here, there) = (host.client.clone(), client_of(&host.client, &two.further));
    post(&here, "n-1", "here").await?;
    here.wait_for_status("n-1", "ready").await?;
    assert_eq!(there.get("/orders/n-1").await?.0, StatusCode::NOT_FOUND);
    let (status, _) = here.post("/stages/inventory/pause", &json!({})).await?;
    assert_eq!(status, StatusCode::OK);
    post(&there, "n-1", "there").await?;
    let order = there.wait_for_status("n-1", "ready").await?;
    assert_eq!(order["customer"], "there", "{order}");
    post(&here, "n-2", "here").await?;
    here.wait_for_status("n-2", "authorized").await?;
    // The first namespace is at the root and below its name.
    for (client, orders) in [(&here, 2), (&client_of(&host.client, &two.first), 2), (&there, 1)] {
        assert_eq!(client.get_all("/orders?limit=10").await?.len(), orders, "{}", client.url);
    }
    // A live stream of one has the events of that one.
    let stream = reqwest::Client::new().get(format!("{}/orders/n-1/events", there.url));
    let mut stream = stream.header("accept", "text/event-stream").send().await?;
    let mut text = String::new();
    while let Some(part) = stream.chunk().await? {
        text.push_str(std::str::from_utf8(&part)?);
        if text.contains("notification.sent") {
            break;
        }
    }
    ensure!(text.contains("shipping.ready"), "{text}");
    let source = format!("/{}/stages/shipping", two.further);
    ensure!(text.contains(&source), "{source} in {text}");
    host.stop().await
}

async fn the_api_of_a_namespace_is_below_its_path(backend: Backend) -> Result<()> {
    let two = TwoNamespaces::create(backend).await?;
    let host = two.env.start().await?;
    let there = client_of(&host.client, &two.further);
    let (first, further) = (two.first.as_str(), two.further.as_str());
    let path = format!("/namespaces/{further}");
    let expected = json!({ "items": [
        { "namespace": first, "path": format!("/namespaces/{first}"), "ready": true },
        { "namespace": further, "path": path, "ready": true },
    ] });
    eventually("both namespaces to be ready", || async {
        Ok((host.client.get("/namespaces").await?.1 == expected).then_some(()))
    })
    .await?;
    let order = json!({ "order_id": "l-1", "user_id": "1", "items": ["Book"] });
    let (_, headers) = there.post_for_headers("/orders", &order).await?;
    assert_eq!(headers["location"], format!("{path}/orders/l-1"));
    let (status, problem) = there.get("/orders/none").await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["type"], format!("{path}/problems/not-found"), "{problem}");
    let (_, document) = there.get("/openapi.json").await?;
    assert_eq!(document["servers"], json!([{ "url": path }]));
    assert!(document["paths"].get("/namespaces").is_none());
    assert!(host.client.get("/openapi.json").await?.1["paths"].get("/namespaces").is_some());
    for unknown in ["/namespaces/none", "/namespaces/none/orders/1"] {
        let (status, problem) = host.client.get(unknown).await?;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let detail = format!("no namespace `none`: this host has {first}, {further}");
        assert_eq!(problem["detail"], detail, "{problem}");
    }
    let (status, problem) = host.client.post("/namespaces", &json!({})).await?;
    assert_eq!((status, problem["status"].as_u64()), (StatusCode::METHOD_NOT_ALLOWED, Some(405)));
    probes_name_the_namespace(&two, &host).await?;
    host.stop().await
}

/// `/ready` and `/metrics` at the root cover both namespaces, and those of one cover that one.
async fn probes_name_the_namespace(two: &TwoNamespaces, host: &RunningHost) -> Result<()> {
    let there = client_of(&host.client, &two.further);
    let (status, readiness) = host.client.get("/ready").await?;
    assert_eq!((status, readiness["ready"].as_bool()), (StatusCode::OK, Some(true)), "{readiness}");
    there.post("/stages/payment/pause", &json!({})).await?;
    let (_, readiness) = host.client.get("/ready").await?;
    let held: Vec<_> = readiness["namespaces"]
        .as_array()
        .context("namespaces")?
        .iter()
        .map(|one| (one["namespace"].clone(), one["held"].clone()))
        .collect();
    assert_eq!(held, [(json!(two.first), json!([])), (json!(two.further), json!(["payment"]))]);
    let (_, own) = there.get("/ready").await?;
    assert_eq!((own["held"].clone(), own.get("namespaces")), (json!(["payment"]), None), "{own}");
    let held = |value: u8, namespace: &str| {
        format!("postrider_stage_held{{namespace=\"{namespace}\",stage=\"payment\"}} {value}.0\n")
    };
    let metrics = host.client.text("/metrics").await?;
    for line in [held(0, &two.first), held(1, &two.further)] {
        ensure!(metrics.contains(&line), "{line} in {metrics}");
    }
    for family in ["# HELP postrider_stage_held ", "# HELP postrider_chain_limit_refusals_total "] {
        assert_eq!(metrics.matches(family).count(), 1, "{metrics}");
    }
    let metrics = there.text("/metrics").await?;
    ensure!(metrics.contains("postrider_stage_held{stage=\"payment\"} 1.0\n"), "{metrics}");
    Ok(())
}

async fn shutdown_finishes_the_work_of_every_namespace(backend: Backend) -> Result<()> {
    const ORDERS: usize = 20;
    let two = TwoNamespaces::create(backend).await?;
    let host = two.env.start().await?;
    let clients = [host.client.clone(), client_of(&host.client, &two.further)];
    for (client, number) in clients.iter().flat_map(|client| (0..ORDERS).map(move |n| (client, n)))
    {
        post(client, &format!("s-{number}"), "1").await?;
    }
    host.stop().await?;
    let host = two.env.start().await?;
    for client in [host.client.clone(), client_of(&host.client, &two.further)] {
        for number in 0..ORDERS {
            client.wait_for_status(&format!("s-{number}"), "ready").await?;
        }
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_cannot_be_built_is_named() -> Result<()> {
    let env = TestEnv::empty("[namespaces.shop]\nstore.url = \"sqlite:/proc/none/shop.db\"\n")?;
    let error = Host::builder().config(env.config()?).build().await.err().context("no folder")?;
    assert_eq!(error.to_string(), "namespace `shop`");
    let cause = std::error::Error::source(&error).context("a cause")?;
    assert!(cause.to_string().starts_with("store.url: "), "{cause}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_keeps_failing_is_reported_with_its_namespace() -> Result<()> {
    let env = TestEnv::empty("[namespaces.shop]\n")?;
    let faults = TaskFaults::new();
    let in_shop = faults.clone();
    let builder = Host::builder().config(env.config()?);
    let builder = builder.namespace("shop", |shop| shop.task_faults(in_shop));
    let handle = builder.build().await?.start()?;
    faults.inject(Task::Relay);
    let RunError::Namespace { name, source } = handle.failed().await else {
        anyhow::bail!("another error");
    };
    assert_eq!(name, "shop");
    assert!(source.to_string().contains("`relay` failed 8 times"), "{source}");
    let error = handle.shutdown().await.err().context("the relay failed")?;
    assert_eq!(error.to_string(), "namespace `shop`");
    Ok(())
}
