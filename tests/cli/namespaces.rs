//! The option `--namespace`, for commands that talk to a host and for those that read a configuration.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, on_both_back_ends};
use crate::support::namespaces::{TwoNamespaces, client_of};
use crate::support::process::postrider;

on_both_back_ends![commands_talk_to_the_chosen_namespace, doctor_checks_every_namespace];

async fn commands_talk_to_the_chosen_namespace(backend: Backend) -> Result<()> {
    let two = TwoNamespaces::create(backend).await?;
    let host = two.env.start().await?;
    let there = client_of(&host.client, &two.further);
    let order = json!({ "order_id": "c-1", "user_id": "1", "items": ["Book"] });
    let (status, answer) = there.post("/orders", &order).await?;
    ensure!(status.is_success(), "{answer}");
    let url = ["--url", host.client.url.as_str()];
    let run = async |namespace: &str, command: &[&str]| {
        postrider(&[command, &url, &["--namespace", namespace]].concat()).await
    };
    let get = ["orders", "watch", "c-1"];
    let (code, said, error) = run(&two.further, &get).await?;
    assert_eq!(code, 0, "{said}{error}");
    let (code, _, error) = run(&two.first, &["orders", "get", "c-1"]).await?;
    assert!(code == 1 && error.contains("no order `c-1`"), "{error}");
    let (code, _, error) = postrider(&[&["orders", "get", "c-1"][..], &url].concat()).await?;
    assert!(code == 1 && error.contains("no order `c-1`"), "{error}");
    let (code, _, error) = run("none", &["stages", "list"]).await?;
    let expected = format!("no namespace `none`: this host has {}, {}", two.first, two.further);
    assert!(code == 1 && error.contains(&expected), "{error}");
    host.stop().await
}

/// A file with the configuration of two namespaces, as arguments.
async fn with_config(env: &TestEnv, arguments: &[&str]) -> Result<(i32, String, String)> {
    let file = env.folder.path().join("two.toml");
    std::fs::write(&file, format!("http.listen = \"127.0.0.1:0\"\n{}", env.config_text()))?;
    let file = file.to_str().context("a path of letters")?.to_owned();
    postrider(&[&["--config", file.as_str()][..], arguments].concat()).await
}

async fn doctor_checks_every_namespace(backend: Backend) -> Result<()> {
    let two = TwoNamespaces::create(backend).await?;
    std::fs::remove_file(two.env.plugins().join(&two.further).join("payment.wasm"))?;
    two.env.start().await?.stop().await?;
    let (code, said, error) = with_config(&two.env, &["--json", "doctor"]).await?;
    let findings: Vec<Value> =
        serde_json::from_str(&said).with_context(|| format!("{said}{error}"))?;
    assert_eq!(code, 0, "{findings:#?}");
    for (namespace, plugins) in [(&two.first, 4), (&two.further, 3)] {
        let of_one = findings.iter().filter_map(|finding| {
            finding["check"].as_str()?.strip_prefix(&format!("{namespace}: "))
        });
        let of_one: Vec<&str> = of_one.collect();
        assert!(of_one.contains(&"store"), "{of_one:?}");
        let found = of_one.iter().filter(|check| check.starts_with("plugin ")).count();
        assert_eq!(found, plugins, "{of_one:?}");
    }
    let addresses = findings.iter().filter(|finding| finding["check"] == "address").count();
    assert_eq!(addresses, 1, "{findings:#?}");
    let (code, said, error) = with_config(&two.env, &["migrate"]).await?;
    assert_eq!((code, said.lines().count()), (0, 2), "{said}{error}");
    assert!(said.contains(&format!("{}: ", two.further)), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_read_the_chosen_namespace() -> Result<()> {
    let mut two = TwoNamespaces::create(Backend::Embedded).await?;
    two.env
        .toml
        .push_str("[namespaces.shop.subjects.ticket]\n[namespaces.shop.http]\nstreams_max = 7\n");
    std::fs::remove_file(two.env.plugins().join("shop/payment.wasm"))?;
    let run = async |arguments: &[&str]| -> Result<Value> {
        let (code, said, error) = with_config(&two.env, arguments).await?;
        ensure!(code == 0, "{arguments:?}: {said}{error}");
        Ok(serde_json::from_str(&said)?)
    };
    let stages = async |arguments: &[&str]| -> Result<usize> {
        Ok(run(arguments).await?["stages"].as_array().context("stages")?.len())
    };
    assert_eq!(stages(&["--json", "topology"]).await?, 4);
    assert_eq!(stages(&["--json", "topology", "--namespace", "shop"]).await?, 3);
    assert!(run(&["openapi"]).await?["paths"].get("/tickets").is_none());
    assert!(run(&["openapi", "--namespace", "shop"]).await?["paths"].get("/tickets").is_some());
    let all = run(&["--json", "config", "check"]).await?;
    assert_eq!(all["namespaces"]["shop"]["http"]["streams_max"], 7);
    let one = run(&["--json", "config", "check", "--namespace", "shop"]).await?;
    assert_eq!(
        (one["namespace"].as_str(), one["http"]["streams_max"].as_u64()),
        (Some("shop"), Some(7))
    );
    let (code, _, error) = with_config(&two.env, &["topology", "--namespace", "none"]).await?;
    let expected = "--namespace: no namespace `none`: the configuration has orders, shop";
    assert!(code == 1 && error.contains(expected), "{error}");
    Ok(())
}
