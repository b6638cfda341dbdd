//! A principal that may submit but not read sees only what it submitted, if so configured.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Guarded, TOKENS};
use crate::support::harness::{Backend, TestEnv, on_both_back_ends};

on_both_back_ends![submitters_see_only_their_own_subjects];

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["order_id"].as_str()).collect()
}

async fn submitters_see_only_their_own_subjects(backend: Backend) -> Result<()> {
    let env =
        TestEnv::empty_on(backend, &format!("{TOKENS}auth.own_subjects_only = true\n")).await?;
    let guarded = Guarded::start(&env).await?;
    let web = guarded.key("web", &["submit"]).await?;
    let shop = guarded.key("shop", &["submit:type/order.*"]).await?;
    let support = guarded.key("support", &["read", "submit"]).await?;
    let order = |id: &str| json!({ "order_id": id, "user_id": "1", "items": ["Book"] });
    for (key, id) in [(&web, "1"), (&shop, "2"), (&web, "3")] {
        let (status, said) = guarded.post("/orders", key, &order(id)).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "{said}");
    }
    for (key, visible) in [(&web, &["3", "1"][..]), (&shop, &["2"]), (&support, &["3", "2", "1"])] {
        let (_, list) = guarded.get("/orders", key).await?;
        assert_eq!(ids(&list), visible);
        for id in ["1", "2", "3"] {
            let expected =
                if visible.contains(&id) { StatusCode::OK } else { StatusCode::NOT_FOUND };
            for path in [format!("/orders/{id}"), format!("/orders/{id}/events")] {
                assert_eq!(guarded.get(&path, key).await?.0, expected, "{path}");
            }
        }
    }
    // Not even that there is such an order can be found out by its body, nor can it be cancelled.
    let (status, problem) = guarded.post("/orders", &web, &order("2")).await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("/problems/subject-exists"))
    );
    assert_eq!(guarded.post("/orders", &shop, &order("2")).await?.0, StatusCode::OK);
    let (status, _) = guarded.post("/orders/2/cancel", &web, &json!({})).await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, said) = guarded.post("/orders/2/cancel", &shop, &json!({})).await?;
    assert_ne!(status, StatusCode::NOT_FOUND, "{said}");
    // The owner is the principal, whatever its key.
    let second = guarded.key("web", &["submit"]).await?;
    assert_eq!(ids(&guarded.get("/orders", &second).await?.1), ["3", "1"]);
    guarded.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_submitters_see_all_subjects() -> Result<()> {
    let env = TestEnv::empty(TOKENS)?;
    let guarded = Guarded::start(&env).await?;
    let (web, shop) =
        (guarded.key("web", &["submit"]).await?, guarded.key("shop", &["submit"]).await?);
    let order = json!({ "order_id": "1", "user_id": "1", "items": ["Book"] });
    guarded.post("/orders", &web, &order).await?;
    assert_eq!(ids(&guarded.get("/orders", &shop).await?.1), ["1"]);
    guarded.stop().await
}
