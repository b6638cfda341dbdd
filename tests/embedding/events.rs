//! The event log as a stream in the program.

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use postrider::{EventQuery, Host};
use serde_json::Value;

use super::{approving, order};
use crate::support::harness::{Backend, TestEnv, on_both_back_ends};

on_both_back_ends![stream_resumes_from_a_cursor_after_a_restart];

async fn stream_resumes_from_a_cursor_after_a_restart(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let build = || async {
        let host = approving(Host::builder().config(env.config()?)).build().await?;
        anyhow::Ok(host.start()?)
    };
    let handle = build().await?;
    for id in ["1", "2", "3"] {
        let _ = handle.submit("order", order(id)).await?;
    }
    let query = EventQuery::new().event_type("payment.*");
    let mut stream = handle.app().events(query.clone())?;
    let first = stream.next().await.context("no event")?;
    let data = first.event.json::<Value>()?;
    assert_eq!(data["order_id"], first.event.subject);
    assert_eq!(first.stage.as_deref(), Some("approve"));
    // Different subjects run in any order.
    assert_eq!(first.subject_key, Some(format!("order/{}", first.event.subject).parse()?));
    let second = stream.next().await.context("no event")?;
    assert!(second.cursor > first.cursor);
    handle.shutdown().await?;
    let mut rest = Vec::new();
    while let Some(event) = stream.next().await {
        rest.push(event);
    }
    assert!(rest.len() <= 1, "the stream ended with the host: {rest:?}");
    let handle = build().await?;
    let mut stream = handle.app().events(query.after(first.cursor))?;
    assert_eq!(stream.next().await.context("no event")?, second, "it resumes after the cursor");
    let third = stream.next().await.context("no event")?;
    let _ = handle.submit("order", order("4")).await?;
    let live = stream.next().await.context("no event")?;
    assert!(third.cursor < live.cursor);
    assert_eq!(live.event.subject, "4");
    drop(stream);
    let of_order = EventQuery::new().subject("order/4".parse()?);
    let types: Vec<String> =
        handle.app().events(of_order)?.map(|one| one.event.event_type).collect().await;
    assert_eq!(types, ["order.created", "payment.authorized"], "it ends with its deliveries");
    Ok(handle.shutdown().await?)
}
