//! Compiled code that is kept on disk is used only if this host wrote it, under every plugin policy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::harness::{RunningHost, SHIPPED, TestEnv, guest};

type Damage = fn(&[PathBuf]) -> Result<()>;

/// The files with code in a folder.
fn files(cache: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(cache)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

fn change(place: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut content = fs::read(place)?;
    change(&mut content);
    Ok(fs::write(place, content)?)
}

/// Starts a host that keeps its code in `cache` and loads only the shipped files.
async fn start(env: &TestEnv, cache: &Path) -> Result<RunningHost> {
    let mut config = env.config()?;
    config.runtime.cache_dir = Some(cache.to_owned());
    env.start_with(|builder| builder.config(config)).await
}

async fn process_an_order(host: &RunningHost, id: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status(id, "ready").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_code_is_compiled_again_and_orders_flow() -> Result<()> {
    let mut digests = Vec::new();
    for stage in SHIPPED {
        let digest = Sha256::digest(fs::read(guest(stage)?)?);
        digests.push(postrider::internals::hex(&digest));
    }
    let env = TestEnv::shipped(&format!(
        "plugins.policy = \"digest\"\nplugins.digests = {digests:?}\n\
         [stages.inventory.settings]\ndefault_stock = \"100\"\n"
    ))?;
    let cache = env.folder.path().join("code");
    let host = start(&env, &cache).await?;
    process_an_order(&host, "first").await?;
    host.stop().await?;
    let damages: [(&str, Damage); 4] = [
        ("one changed bit", |files| {
            files.iter().try_for_each(|file| {
                change(file, |code| {
                    let middle = code.len() / 2;
                    code[middle] ^= 1;
                })
            })
        }),
        ("zeros, as after a power cut", |files| {
            files.iter().try_for_each(|file| change(file, |code| code.fill(0)))
        }),
        ("cut short", |files| {
            files.iter().try_for_each(|file| change(file, |code| code.truncate(code.len() / 2)))
        }),
        ("swapped", |files| {
            let (one, other) = (fs::read(&files[0])?, fs::read(&files[1])?);
            fs::write(&files[0], other)?;
            Ok(fs::write(&files[1], one)?)
        }),
    ];
    for (damage, apply) in damages {
        let files = files(&cache)?;
        ensure!(files.len() == SHIPPED.len(), "{damage}: {files:?}");
        apply(&files)?;
        let damaged: Vec<_> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
        let host = start(&env, &cache).await?;
        process_an_order(&host, &damage.replace([' ', ','], "-")).await?;
        host.stop().await?;
        let written: Vec<_> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
        let again = written.iter().zip(&damaged).filter(|(now, then)| now != then).count();
        let expected = if damage == "swapped" { 2 } else { SHIPPED.len() };
        assert_eq!(again, expected, "{damage}: files that were written again");
    }
    Ok(())
}
