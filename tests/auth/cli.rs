//! `postrider keys`, and the token of every command.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Guarded, TOKENS, id_of};
use crate::support::harness::TestEnv;
use crate::support::process::{output, postrider};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_send_the_token() -> Result<()> {
    let env = TestEnv::empty(TOKENS)?;
    let guarded = Guarded::start(&env).await?;
    let (url, admin) = (guarded.host.client.url.clone(), guarded.admin.clone());
    let run = |args: &[&str], environment: &[(&str, &str)]| -> Result<(i32, String, String)> {
        let said = output(&[args, &["--url", &url]].concat(), environment)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((said.status.code().context("a code")?, text(said.stdout), text(said.stderr)))
    };
    let (code, _, errors) = tokio::task::block_in_place(|| run(&["stages", "list"], &[]))?;
    assert!(code == 1 && errors.contains("Authentication required"), "{code}: {errors}");
    let variable = [("POSTRIDER_TOKEN", admin.as_str())];
    let file = env.folder.path().join("token");
    std::fs::write(&file, format!("{admin}\n"))?;
    let file = file.to_str().context("a path that is text")?;
    tokio::task::block_in_place(|| -> Result<()> {
        let (code, listed, errors) = run(&["stages", "list"], &variable)?;
        assert!(code == 0 && listed.contains("payment"), "{errors}");
        let (code, _, errors) = run(&["stages", "list", "--token-file", file], &[])?;
        assert_eq!(code, 0, "{errors}");
        let (code, _, errors) = run(&["stages", "list", "--token-file", "/none"], &variable)?;
        assert!(code == 1 && errors.contains("--token-file"), "{errors}");
        let create =
            ["keys", "create", "web", "--role", "submit:type/order.*", "--expires-in", "90d"];
        let (code, key, errors) = run(&create, &variable)?;
        assert!(code == 0 && key.starts_with("pr_") && key.trim().lines().count() == 1, "{errors}");
        let key = key.trim();
        let (_, listed, _) = run(&["keys", "list"], &variable)?;
        assert!(listed.contains("web") && listed.contains("submit:type/order.*"), "{listed}");
        assert!(!listed.contains(key), "a key is shown once");
        let (code, rotated, errors) =
            run(&["keys", "rotate", id_of(key), "--overlap", "1h", "--json"], &variable)?;
        assert_eq!(code, 0, "{errors}");
        let rotated: Value = serde_json::from_str(&rotated)?;
        assert_eq!(rotated["principal"], "web");
        let (code, said, errors) = run(&["keys", "revoke", id_of(key)], &variable)?;
        assert!(code == 0 && said.contains("is revoked"), "{errors}");
        let (code, _, errors) = run(&["keys", "list"], &[("POSTRIDER_TOKEN", key)])?;
        assert!(code == 1 && errors.contains("was revoked"), "{errors}");
        let (code, _, errors) = run(&["keys", "create", "web", "--role", "operator"], &variable)?;
        assert!(code == 2 && errors.contains("is not a role"), "{errors}");
        Ok(())
    })?;
    guarded.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_key_is_made_in_the_store() -> Result<()> {
    let env = TestEnv::empty(TOKENS)?;
    let key = super::first_key(&env).await?;
    let config = env.folder.path().join("keys.toml");
    let config = config.to_str().context("a path that is text")?;
    let (code, listed, errors) =
        postrider(&["--config", config, "keys", "list", "--store"]).await?;
    assert!(code == 0 && listed.contains(id_of(&key)) && !listed.contains(&key), "{errors}");
    // A host has the store to itself.
    let host = env.start().await?;
    let (code, _, errors) = postrider(&["--config", config, "keys", "list", "--store"]).await?;
    assert!(code == 1 && errors.contains("is in use"), "{errors}");
    host.stop().await?;
    let revoke = ["--config", config, "keys", "revoke", id_of(&key), "--store"];
    let (code, said, errors) = postrider(&revoke).await?;
    assert!(code == 0 && said.contains("is revoked"), "{errors}");
    Ok(())
}
