//! A row that the database refuses for good dead-letters the message that it belongs to; the rest of
//! its batch is committed, and later messages are processed.

use anyhow::{Context as _, Result, ensure};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::amqp_url;

on_both_back_ends![
    refused_row_dead_letters_its_message_alone,
    foreign_event_that_cannot_be_stored_is_dead_lettered,
];

/// Orders before and after the one whose row is refused.
const ORDERS: usize = 9;
/// What the payment stage writes for the order in the middle.
const POISON_STATE: &str = "new.key = 'order/poison/payment'";
/// `untranslatable_character`: one that the database's encoding lacks.
const UNTRANSLATABLE: &str = "22P05";

async fn post(host: &RunningHost, id: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 });
    let (status, answer) = host.client.post("/orders", &order).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(())
}

/// Makes the database refuse the rows of a table for which `condition` holds; Postgres with this
/// code.
async fn refuse_rows(env: &TestEnv, table: &str, condition: &str, code: &str) -> Result<()> {
    let trigger = match env.servers {
        None => format!(
            "CREATE TRIGGER poison BEFORE INSERT ON {table} WHEN {condition} \
             BEGIN SELECT raise(ABORT, 'refused'); END"
        ),
        Some(_) => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END $$; \
             CREATE TRIGGER poison BEFORE INSERT ON {table} FOR EACH ROW \
             WHEN ({condition}) EXECUTE FUNCTION refuse()"
        ),
    };
    env.execute(&trigger).await
}

/// Posts the orders to a paused stage, so that they are in one batch once it is resumed.
async fn post_in_one_batch(host: &RunningHost) -> Result<()> {
    host.client.post("/stages/payment/pause", &json!({})).await?;
    for number in 0..ORDERS {
        let id = if number == ORDERS / 2 { "poison".to_owned() } else { format!("r-{number}") };
        post(host, &id).await?;
    }
    host.client.post("/stages/payment/resume", &json!({})).await?;
    Ok(())
}

/// All orders but one are ready, and its dead letter has `code`.
async fn assert_one_dead_letter(host: &RunningHost, code: &str) -> Result<()> {
    for number in (0..ORDERS).filter(|number| *number != ORDERS / 2) {
        host.client.wait_for_status(&format!("r-{number}"), "ready").await?;
    }
    host.client.wait_for_status("poison", "failed").await?;
    let (_, dead_letters) = host.client.get("/dead-letters").await?;
    let items = dead_letters["items"].as_array().map_or(0, Vec::len);
    assert_eq!(
        (items, dead_letters["items"][0]["code"].as_str()),
        (1, Some(code)),
        "{dead_letters}"
    );
    // What comes later is not delayed either.
    post(host, "later").await?;
    host.client.wait_for_status("later", "ready").await?;
    Ok(())
}

async fn refused_row_dead_letters_its_message_alone(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    refuse_rows(&env, "state", POISON_STATE, UNTRANSLATABLE).await?;
    let code = match backend {
        Backend::Embedded => "store:19",
        Backend::Servers => "store:22P05",
    };
    post_in_one_batch(&host).await?;
    assert_one_dead_letter(&host, code).await?;
    host.stop().await
}

/// The embedded store has one writer, and no such conflicts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_that_always_conflicts_dead_letters_its_message_alone() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let host = env.start().await?;
    refuse_rows(&env, "state", POISON_STATE, "40001").await?;
    post_in_one_batch(&host).await?;
    assert_one_dead_letter(&host, "store:contended").await?;
    host.stop().await
}

/// Publishes an event as another program does.
async fn publish(env: &TestEnv, event_type: &str, subject: &str) -> Result<()> {
    let exchange = env.servers.as_ref().context("servers")?.exchange();
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let event = json!({ "specversion": "1.0", "id": subject, "source": "/desk", "type": event_type,
        "subject": subject, "data": {} });
    let properties =
        BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let (exchange, key) = (exchange.as_str().into(), event_type.into());
    let body = event.to_string();
    channel
        .basic_publish(exchange, key, BasicPublishOptions::default(), body.as_bytes(), properties)
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// The database refuses the event that stands for an unreadable message, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_message_that_cannot_be_stored_holds_up_no_other() -> Result<()> {
    let toml = format!("{AMPLE_STOCK}[stages.notification.settings]\nreceipt_on = \"desk.note\"\n");
    let env = TestEnv::shipped_on(Backend::Servers, &toml).await?;
    let host = env.start().await?;
    let refused = "new.type = 'postrider.unreadable' AND length(new.data) > 0";
    refuse_rows(&env, "events", refused, UNTRANSLATABLE).await?;
    // Without a type that can be routed they are unreadable.
    for subject in ["one", "two"] {
        publish(&env, "desk.note", &format!("{subject}\u{7}")).await?;
    }
    let dead_letters = eventually("two dead letters", || async {
        let (_, dead_letters) = host.client.get("/dead-letters").await?;
        let items = dead_letters["items"].as_array().cloned().unwrap_or_default();
        Ok((items.len() == 2).then_some(items))
    })
    .await?;
    for dead_letter in dead_letters {
        assert_eq!(dead_letter["code"], "store:22P05", "{dead_letter}");
        let message = dead_letter["message"].as_str().unwrap_or_default();
        assert!(message.contains("control character"), "the reason is lost: {message}");
    }
    host.stop().await
}

async fn foreign_event_that_cannot_be_stored_is_dead_lettered(backend: Backend) -> Result<()> {
    let toml = format!("{AMPLE_STOCK}[stages.notification.settings]\nreceipt_on = \"desk.note\"\n");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let host = env.start().await?;
    refuse_rows(&env, "events", "new.subject = '🎁'", UNTRANSLATABLE).await?;
    match backend {
        // Over HTTP the sender is told.
        Backend::Embedded => {
            let event = json!({ "specversion": "1.0", "id": "n-1", "source": "/desk",
                "type": "desk.note", "subject": "🎁", "data": {} });
            let (status, problem) = host
                .client
                .post_raw("/events", "application/cloudevents+json", event.to_string())
                .await?;
            assert_eq!(
                (status.as_u16(), problem["type"].as_str()),
                (422, Some("/problems/unstorable")),
                "{problem}"
            );
        }
        Backend::Servers => {
            for subject in ["🎁", "plain"] {
                publish(&env, "desk.note", subject).await?;
            }
            let dead_letter = eventually("a dead letter", || async {
                let (_, dead_letters) = host.client.get("/dead-letters").await?;
                Ok(dead_letters["items"].get(0).cloned())
            })
            .await?;
            assert_eq!(dead_letter["code"], "store:22P05", "{dead_letter}");
            let sent = "SELECT count(*) FROM deliveries WHERE stage = 'notification' AND \
                        status = 'done'";
            eventually("the other event", || async {
                Ok((env.query_count(sent).await? == 1).then_some(()))
            })
            .await?;
        }
    }
    host.stop().await
}
