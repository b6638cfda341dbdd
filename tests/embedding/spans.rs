//! The host logs in spans below the one in which it was built, and installs no subscriber.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use postrider::Host;
use tracing::span::{Attributes, Id};
use tracing::{Event, Instrument as _, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::{approving, order};
use crate::support::harness::{TestEnv, eventually};

/// The target of an event, and the names of the spans around it, the outermost first.
type Traced = (String, Vec<&'static str>);

/// Remembers the spans around each event.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Traced>>>);

impl Recorded {
    fn of(&self, target: &str) -> Vec<Vec<&'static str>> {
        let all = self.0.lock().expect("no test panics here");
        all.iter()
            .filter(|(of, _)| of.starts_with(target))
            .map(|(_, spans)| spans.clone())
            .collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorded {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {}

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let spans = context.event_scope(event).into_iter();
        let spans = spans.flat_map(|scope| scope.from_root().map(|span| span.name())).collect();
        let target = event.metadata().target().to_owned();
        self.0.lock().expect("no test panics here").push((target, spans));
    }
}

/// A process of its own is not needed: the subscriber is the default of this thread only, where the
/// runtime runs every task.
#[tokio::test(flavor = "current_thread")]
#[ignore = "runs alone: subscribers of other threads switch spans on and off for all"]
async fn spans_of_the_host_are_children_of_the_callers() -> Result<()> {
    let recorded = Recorded::default();
    // The steps within the host are at level trace.
    let layer = recorded.clone().with_filter(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(layer);
    let _default = tracing::subscriber::set_default(subscriber);
    let env = TestEnv::empty("")?;
    // Another test may reach a span for the first time just now, and would switch it off for all.
    tracing::callsite::rebuild_interest_cache();
    let shop = tracing::info_span!("shop");
    let handle = async {
        anyhow::Ok(approving(Host::builder().config(env.config()?)).build().await?.start()?)
    };
    let handle = handle.instrument(shop).await?;
    let submit = tracing::info_span!("checkout");
    tracing::callsite::rebuild_interest_cache();
    let _ = handle.submit("order", order("1")).instrument(submit).await?;
    let app = handle.app();
    eventually("the order to be approved", || async {
        Ok((app.status(&"order/1".parse()?).await?.as_deref() == Some("authorized")).then_some(()))
    })
    .await?;
    handle.shutdown().await?;
    let of_the_stage = recorded.of("integration::embedding");
    assert_eq!(of_the_stage, [["shop", "postrider", "call"]], "the stage logs inside its call");
    let of_the_host = recorded.of("postrider::host");
    assert!(of_the_host.iter().any(|spans| spans.starts_with(&["shop"])), "{of_the_host:?}");
    let submitted = recorded.of("postrider::app");
    assert!(submitted.iter().all(|spans| spans.first() == Some(&"checkout")), "{submitted:?}");
    Ok(())
}
