//! No change of a plugin file goes unnoticed, and no refusal outlives its cause. Meanwhile the host
//! says what a refused file waits for.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use postrider::internals::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, guest, on_both_back_ends,
};

on_both_back_ends![a_refused_file_leaves_one_record_for_each_content];

/// The plugin `fifth`, which serves the stage `audit`, in a version of this mark; all of one size.
fn version(mark: u8) -> Result<Vec<u8>> {
    let mut content = fs::read(guest("fifth")?)?;
    content.extend_from_slice(&[0, 2, 1, mark]);
    Ok(content)
}

async fn start() -> Result<(TestEnv, RunningHost)> {
    let env = TestEnv::empty("")?;
    fs::write(env.plugins().join("a.wasm"), version(b'a')?)?;
    let host = env.start().await?;
    assert_eq!(host.client.plugin_of_stage("audit").await?["file"], "a.wasm");
    Ok((env, host))
}

/// Waits until the file is refused; returns the error and what it waits for.
async fn refused(client: &Client, file: &str) -> Result<(String, String)> {
    let shown = eventually(&format!("{file} to be refused"), || async {
        let plugin = client.plugin(file).await?;
        Ok(plugin["last_error"].is_string().then_some(plugin))
    })
    .await?;
    let text = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
    Ok((text("last_error"), text("waiting_for")))
}

async fn audit_is_served_by(client: &Client, file: &str) -> Result<()> {
    eventually(&format!("{file} to serve"), || async {
        let plugin = client.plugin_of_stage("audit").await?;
        let serves = plugin["file"] == file
            && plugin["state"] == "serving"
            && plugin["last_error"].is_null()
            && plugin["waiting_for"].is_null();
        Ok(serves.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stage_name_that_is_freed_goes_to_the_file_that_waits_for_it() -> Result<()> {
    type Cure = fn(&Path) -> Result<()>;
    let cures: [(&str, Cure); 3] = [
        ("the owner is removed", |owner| Ok(fs::remove_file(owner)?)),
        ("the owner is renamed", |owner| Ok(fs::rename(owner, owner.with_extension("old"))?)),
        ("the owner serves another stage", |owner| {
            fs::copy(guest("payment")?, owner)?;
            Ok(())
        }),
    ];
    for (what, cure) in cures {
        let (env, host) = start().await?;
        fs::write(env.plugins().join("b.wasm"), version(b'b')?)?;
        let (error, waiting_for) = refused(&host.client, "b.wasm").await?;
        assert!(error.contains("stage `audit` is served by a.wasm"), "{what}: {error}");
        assert!(waiting_for.contains("a.wasm to stop serving stage `audit`"), "{waiting_for}");
        cure(&env.plugins().join("a.wasm"))?;
        audit_is_served_by(&host.client, "b.wasm").await?;
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_that_cannot_be_read_is_tried_again() -> Result<()> {
    type Step = fn(&Path) -> Result<()>;
    let causes: [(&str, Step, Step); 3] = [
        (
            "not a regular file",
            |place| Ok(fs::create_dir(place)?),
            |place| {
                fs::remove_dir(place)?;
                Ok(fs::write(place, version(b'x')?)?)
            },
        ),
        (
            "a link to a file that does not exist",
            |place| Ok(symlink(place.with_extension("target"), place)?),
            |place| Ok(fs::write(place.with_extension("target"), version(b'x')?)?),
        ),
        (
            "Too many levels of symbolic links",
            |place| Ok(symlink(place, place)?),
            |place| {
                fs::remove_file(place)?;
                Ok(fs::write(place, version(b'x')?)?)
            },
        ),
    ];
    for (problem, cause, cure) in causes {
        let env = TestEnv::empty("")?;
        let place = env.plugins().join("a.wasm");
        cause(&place)?;
        let host = env.start().await?;
        let (error, waiting_for) = refused(&host.client, "a.wasm").await?;
        assert!(error.contains(problem), "{error}");
        assert!(waiting_for.contains("a file that can be read"), "{waiting_for}");
        cure(&place)?;
        audit_is_served_by(&host.client, "a.wasm").await?;
        host.stop().await?;
    }
    Ok(())
}

/// Waits until the stage serves other content than before.
async fn wait_for_other_content(client: &Client, before: &Value) -> Result<()> {
    eventually("other content", || async {
        let plugin = client.plugin_of_stage("audit").await?;
        Ok((plugin["digest"].is_string() && plugin["digest"] != *before).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replacement_of_a_file_is_noticed() -> Result<()> {
    // With the plugins folder, a folder outside it, and a version.
    type Change = fn(&Path, &Path, &[u8]) -> Result<()>;
    let changes: [(&str, Change); 3] = [
        ("in place, with the same size and time", |plugins, _, content| {
            let place = plugins.join("a.wasm");
            let time = fs::metadata(&place)?.modified()?;
            fs::write(&place, content)?;
            Ok(File::options().append(true).open(&place)?.set_modified(time)?)
        }),
        ("the target of a link", |plugins, outside, content| {
            let (target, place) = (outside.join("target"), plugins.join("a.wasm"));
            if !place.is_symlink() {
                fs::rename(&place, &target)?;
                symlink(&target, &place)?;
            }
            fs::write(outside.join("next"), content)?;
            Ok(fs::rename(outside.join("next"), target)?)
        }),
        ("the folder", |plugins, outside, content| {
            fs::rename(plugins, outside.join("before"))?;
            fs::create_dir(plugins)?;
            fs::write(plugins.join("a.wasm"), content)?;
            Ok(fs::remove_dir_all(outside.join("before"))?)
        }),
    ];
    for (what, change) in changes {
        let (env, host) = start().await?;
        let outside = tempfile::tempdir_in(env.folder.path())?;
        // More than once: what is watched must follow.
        for mark in [b'b', b'c', b'd'] {
            let before = host.client.plugin_of_stage("audit").await?["digest"].clone();
            change(&env.plugins(), outside.path(), &version(mark)?)
                .map_err(|error| error.context(what))?;
            wait_for_other_content(&host.client, &before).await?;
        }
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_is_gone_stops_nothing_and_is_reported() -> Result<()> {
    let (env, host) = start().await?;
    fs::rename(env.plugins(), env.folder.path().join("away"))?;
    let (error, _) = refused(&host.client, "a.wasm").await?;
    assert!(error.contains("the plugins folder"), "{error}");
    assert_eq!(host.client.plugin_of_stage("audit").await?["state"], "serving");
    fs::rename(env.folder.path().join("away"), env.plugins())?;
    audit_is_served_by(&host.client, "a.wasm").await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_file_by_name_gets_the_stage_at_every_start() -> Result<()> {
    let env = TestEnv::empty("")?;
    for (file, mark) in [("a.wasm", b'a'), ("b.wasm", b'b'), ("c.wasm", b'c')] {
        fs::write(env.plugins().join(file), version(mark)?)?;
    }
    for _ in 0..3 {
        let host = env.start().await?;
        audit_is_served_by(&host.client, "a.wasm").await?;
        host.stop().await?;
    }
    Ok(())
}

/// Records of refused files: object, digest and reason of each.
async fn refusals(client: &Client) -> Result<Vec<(String, String, String)>> {
    let records = client.get_all("/audit?action=plugin.refuse").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for record in &records {
        assert_eq!(record["actor"]["kind"], "host", "{record}");
        assert_eq!(record["outcome"], "refused", "{record}");
        assert!(record["before"].is_null() && record["after"]["waiting_for"].is_string());
    }
    let shown = records.iter().map(|record| {
        (text(&record["object"]), text(&record["after"]["digest"]), text(&record["reason"]))
    });
    Ok(shown.collect())
}

async fn a_refused_file_leaves_one_record_for_each_content(backend: Backend) -> Result<()> {
    let listed = hex(&Sha256::digest(version(b'a')?));
    let listed_too = hex(&Sha256::digest(b"no WebAssembly"));
    let policy = format!(
        "plugins.policy = \"digest\"\nplugins.digests = [\"{listed}\", \"{listed_too}\"]\n"
    );
    let env = TestEnv::empty_on(backend, &policy).await?;
    let place = env.plugins().join("b.wasm");
    fs::write(env.plugins().join("a.wasm"), version(b'a')?)?;
    fs::write(&place, version(b'b')?)?;
    // Of a file that cannot be read nothing is known.
    fs::create_dir(env.plugins().join("c.wasm"))?;
    let expected = |content: &[u8], why: &str| {
        let digest = hex(&Sha256::digest(content));
        ("plugin/b.wasm".to_owned(), digest.clone(), why.replace("{}", &digest))
    };
    let not_listed = "plugins.policy is `digest` and plugins.digests does not list {}";
    let mut all = vec![expected(&version(b'b')?, not_listed)];
    // A start reports every file again.
    for _ in 0..2 {
        let host = env.start().await?;
        refused(&host.client, "b.wasm").await?;
        refused(&host.client, "c.wasm").await?;
        assert_eq!(refusals(&host.client).await?, all);
        host.stop().await?;
    }
    let host = env.start().await?;
    let client = &host.client;
    for (content, why) in [
        (version(b'x')?, not_listed),
        (
            b"no WebAssembly".to_vec(),
            "not WebAssembly: the file begins with neither the header of \
            a component nor that of a core module",
        ),
    ] {
        let count = all.len() + 1;
        fs::write(&place, &content)?;
        all.push(expected(&content, why));
        eventually("another record", || async {
            Ok((refusals(client).await?.len() == count).then_some(()))
        })
        .await?;
        assert_eq!(refusals(client).await?, all);
    }
    // Content that was refused before, and a file that serves.
    let (known, _) = refused(client, "b.wasm").await?;
    fs::write(&place, version(b'b')?)?;
    eventually("the first content", || async {
        Ok((refused(client, "b.wasm").await?.0 != known).then_some(()))
    })
    .await?;
    assert_eq!(refusals(client).await?, all);
    let (_, loads) = client.get("/audit?action=plugin.load").await?;
    let loads = loads["items"].as_array().context("items")?;
    assert!(loads.iter().all(|load| load["object"] == "stage/audit"), "{loads:?}");
    assert_eq!(loads[0]["after"]["digest"], json!(listed));
    host.stop().await
}
