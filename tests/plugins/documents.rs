//! The documents example: a pipeline without orders, with stages in Rust and Python, keeps the
//! promises that orders have. It runs as a program, with the configuration of the example.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::languages::built;
use crate::support::harness::{Backend, Client, TestEnv, eventually, root};
use crate::support::process::HostProcess;

/// Kills of the host while documents are uploaded.
const KILLS: usize = 6;
/// Documents uploaded before each kill.
const BETWEEN_KILLS: usize = 15;

/// The kinds of subjects of the example.
fn kinds() -> Result<String> {
    let example = root().join("plugins/examples/documents");
    let text = std::fs::read_to_string(example.join("postrider.toml"))?;
    let kinds = text.find("[subjects.order]").context("kinds of subjects")?;
    Ok(text[kinds..].replace("plugins/examples/documents", &example.display().to_string()))
}

async fn environment(backend: Backend) -> Result<TestEnv> {
    let env = TestEnv::empty_on(backend, &kinds()?).await?;
    let guests = root().join("target/guests/wasm32-unknown-unknown/release");
    let classify = built(&root().join("plugins/examples/documents/classify"), false)?;
    for file in [guests.join("extract.wasm"), guests.join("index.wasm"), classify] {
        let name = file.file_name().context("a file")?;
        std::fs::copy(&file, env.plugins().join(name))
            .with_context(|| file.display().to_string())?;
    }
    Ok(env)
}

async fn upload(client: &Client, id: &str, more: serde_json::Value) -> Result<()> {
    let mut document = json!({ "document_id": id, "title": id, "owner": "42" });
    document
        .as_object_mut()
        .context("an object")?
        .extend(more.as_object().context("an object")?.clone());
    let (status, answer) = client.post("/documents", &document).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    Ok(())
}

/// Every end of a document: indexed, rejected, failed, withdrawn.
async fn documents_reach_every_end(backend: Backend) -> Result<()> {
    let env = environment(backend).await?;
    let (process, client) = HostProcess::start_ready(&env).await?;
    upload(&client, "kept", json!({ "content": "annual report" })).await?;
    upload(&client, "gone", json!({ "content": "weekly report" })).await?;
    upload(&client, "image", json!({ "content": "x", "media_type": "image/png" })).await?;
    upload(&client, "broken", json!({ "content": "x", "force_fail": true })).await?;
    client.wait_for_subject("/documents/kept", "indexed").await?;
    client.wait_for_subject("/documents/gone", "indexed").await?;
    client.wait_for_subject("/documents/image", "rejected").await?;
    client.wait_for_subject("/documents/broken", "failed").await?;
    let (status, answer) = client.post("/documents/gone/cancel", &json!({})).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    client.wait_for_subject("/documents/gone", "withdrawn").await?;
    let (status, answer) = client.post("/documents/image/cancel", &json!({})).await?;
    assert_eq!(status.as_u16(), 409, "{answer}");
    let (status, problem) =
        client.post("/documents", &json!({ "title": "", "content": 7 })).await?;
    assert_eq!(status.as_u16(), 422);
    let errors = problem["errors"].as_array().context("errors")?;
    let pointers: Vec<&str> = errors.iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/content", "/title"]);
    // What was withdrawn left the index: the terms of the other one remain.
    let terms = "SELECT count(*) FROM state WHERE key LIKE 'term/%' AND value IS NOT NULL";
    assert_eq!(env.query_count(terms).await?, 2, "annual, report");
    for undone in [
        "SELECT count(*) FROM events WHERE type = 'document.unindexed'",
        "SELECT count(*) FROM events WHERE type = 'document.unclassified'",
        "SELECT count(*) FROM dead_letters WHERE status = 'open'",
    ] {
        assert_eq!(env.query_count(undone).await?, 1, "{undone}");
    }
    process.kill()
}

/// Every uploaded document is indexed once, however often the host is killed meanwhile.
async fn kills_lose_and_duplicate_no_document(backend: Backend) -> Result<()> {
    let env = environment(backend).await?;
    let (mut process, mut client) = HostProcess::start_ready(&env).await?;
    for kill in 0..KILLS {
        for number in 0..BETWEEN_KILLS {
            upload(&client, &format!("d-{kill}-{number}"), json!({ "content": "a report" }))
                .await?;
        }
        // Most of them are still on their way.
        process.kill()?;
        (process, client) = HostProcess::start_ready(&env).await?;
    }
    let documents = i64::try_from(KILLS * BETWEEN_KILLS)?;
    eventually("every document to be indexed", || async {
        let indexed = "SELECT count(*) FROM subjects WHERE status = 'indexed'";
        Ok((env.query_count(indexed).await? == documents).then_some(()))
    })
    .await?;
    for once in [
        "SELECT count(*) FROM events WHERE type = 'document.extracted'",
        "SELECT count(*) FROM events WHERE type = 'document.classified'",
        "SELECT count(*) FROM events WHERE type = 'document.indexed'",
        "SELECT count(*) FROM subjects",
        "SELECT count(*) / 3 FROM deliveries WHERE status = 'done'",
    ] {
        assert_eq!(env.query_count(once).await?, documents, "{once}");
    }
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    process.kill()
}

/// One test for both back ends: they share the build of the stage in Python.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds with the tools of Python: `cargo xtask test` runs it alone, after the others"]
async fn documents_keep_the_promises_of_orders() -> Result<()> {
    for backend in [Backend::Embedded, Backend::Servers] {
        documents_reach_every_end(backend).await?;
        kills_lose_and_duplicate_no_document(backend).await?;
    }
    Ok(())
}
