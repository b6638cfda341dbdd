//! What an operator asks of all hosts through one of them.
//!
//! The host that is asked does its own part, and writes a command for each other host that runs the stage to
//! the store. Bounds: it waits [`CLOSE_TIMEOUT`] for answers, or four fifths of the time that a request may take,
//! and for none of a host that is not live any more.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::commands::{Act, Answer, Command};
use super::{ClusterStage, HostStatus};
use crate::app::App;
use crate::app::audit::actor;
use crate::app::plugins::{PluginStatus, RollBack};
use crate::store::{NewCommand, StoreError};

/// How long other hosts may take to close a breaker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks for answers.
const POLL: Duration = Duration::from_millis(100);

/// What came of a roll-back on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAnswer {
    /// The host.
    pub(crate) host: String,
    /// The version that serves there now, or why it does not.
    pub(crate) digest: Result<String, String>,
}

/// What came of a roll-back on all hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RolledBackStage {
    /// The host that went first: it runs the version that was loaded last.
    pub(crate) host: String,
    /// What came of it there. The others follow only if it is done.
    pub(crate) result: RollBack,
    /// The other hosts that served another version than this one from a file.
    pub(crate) others: Vec<HostAnswer>,
}

/// A roll-back that an operator asks for.
#[derive(Clone, Copy)]
struct RollBackRequest<'a> {
    stage: &'a str,
    /// The version: its digest or the first characters of it; none: the one before.
    digest: Option<&'a str>,
    reason: Option<&'a str>,
}

impl From<RollBackRequest<'_>> for Act {
    fn from(RollBackRequest { digest, reason, .. }: RollBackRequest<'_>) -> Self {
        Self::RollBack { digest: digest.map(str::to_owned), reason: reason.map(str::to_owned) }
    }
}

impl From<Option<Answer>> for RollBack {
    fn from(answer: Option<Answer>) -> Self {
        match answer {
            Some(Answer::RolledBack { digest }) => Self::Done(digest),
            Some(Answer::NotFound) => Self::NotFound,
            Some(Answer::NoSuchVersion) => Self::NoSuchVersion,
            Some(Answer::Refused { why }) => Self::Refused(why),
            Some(Answer::Closed) | None => Self::Refused(NO_ANSWER.to_owned()),
        }
    }
}

/// What is known of a host that did not answer.
const NO_ANSWER: &str =
    "the host did not answer in time, and may still do it: see GET /hosts and GET /plugins";

/// The plugin file that serves a stage on a host.
fn serving<'h>(host: &'h HostStatus, stage: &str) -> Option<&'h PluginStatus> {
    let mut plugins = host.plugins.iter();
    plugins.find(|plugin| {
        plugin.stage.as_deref() == Some(stage) && plugin.file.is_some() && plugin.digest.is_some()
    })
}

impl App {
    /// Closes the circuit breaker of a stage on every live host that runs it. Returns the stage; none when
    /// no host knows it.
    ///
    /// # Errors
    /// When the store fails: the breaker may be closed on some hosts only.
    pub(crate) async fn close_breaker_on_all_hosts(
        &self,
        stage: &str,
        reason: Option<&str>,
    ) -> Result<Option<ClusterStage>, StoreError> {
        if !self.is_known(stage) {
            return Ok(None);
        }
        let _ = self.close_breaker(stage, reason).await;
        let others = self.cluster.others();
        let run =
            |host: &&HostStatus| host.stage(stage).is_some_and(|stage| stage.version.is_some());
        let hosts: Vec<String> = others.iter().filter(run).map(|host| host.host.clone()).collect();
        if !hosts.is_empty() {
            let act = Act::CloseBreaker { reason: reason.map(str::to_owned) };
            self.ask(&hosts, stage, &act, Instant::now() + CLOSE_TIMEOUT).await?;
            self.refresh_hosts().await?;
        }
        Ok(self.cluster_stage(stage).await)
    }

    /// Rolls a stage's plugin back on every live host that serves it from a file. The host that runs the
    /// version that was loaded last goes first and chooses the version, as [`App::roll_back`] does; the
    /// others follow.
    ///
    /// # Errors
    /// When the store fails: the plugin may be rolled back on some hosts only.
    pub(crate) async fn roll_back_on_all_hosts(
        &self,
        stage: &str,
        digest: Option<&str>,
        reason: Option<&str>,
    ) -> Result<RolledBackStage, StoreError> {
        let until = Instant::now() + self.cluster.patience;
        // What was read last may be a second old, and another host may have changed the version since.
        self.refresh_hosts().await?;
        let hosts = self.hosts();
        let own = self.host_name().to_owned();
        let newest = hosts
            .iter()
            .filter_map(|host| Some((serving(host, stage)?, &host.host)))
            .max_by_key(|(plugin, host)| (plugin.loaded_at_ms, **host == own));
        let Some((newest, leader)) = newest else {
            return Ok(RolledBackStage { host: own, result: RollBack::NotFound, others: vec![] });
        };
        let runs_it = |host: &&HostStatus| {
            host.host == own
                && serving(host, stage).is_some_and(|plugin| plugin.digest == newest.digest)
        };
        let leader = if hosts.iter().any(|host| runs_it(&host)) { &own } else { leader };
        let result =
            self.roll_back_on(leader, RollBackRequest { stage, digest, reason }, until).await?;
        let mut others = Vec::new();
        if let RollBack::Done(chosen) = &result {
            let differs = |host: &&HostStatus| {
                host.host != *leader
                    && serving(host, stage)
                        .is_some_and(|plugin| plugin.digest.as_deref() != Some(chosen))
            };
            let follow: Vec<String> =
                hosts.iter().filter(differs).map(|host| host.host.clone()).collect();
            let chosen = RollBackRequest { stage, digest: Some(chosen), reason };
            others = self.follow(&follow, chosen, until).await?;
            self.refresh_hosts().await?;
        }
        Ok(RolledBackStage { host: leader.clone(), result, others })
    }

    async fn roll_back_on(
        &self,
        host: &str,
        wanted: RollBackRequest<'_>,
        until: Instant,
    ) -> Result<RollBack, StoreError> {
        let RollBackRequest { stage, digest, reason } = wanted;
        if host == self.host_name() {
            return self.roll_back(stage, digest, reason).await;
        }
        let mut answers = self.ask(&[host.to_owned()], stage, &wanted.into(), until).await?;
        Ok(answers.remove(host).into())
    }

    /// Rolls back to this version on these hosts.
    async fn follow(
        &self,
        hosts: &[String],
        wanted: RollBackRequest<'_>,
        until: Instant,
    ) -> Result<Vec<HostAnswer>, StoreError> {
        let RollBackRequest { stage, digest, reason } = wanted;
        let act = wanted.into();
        let (own, others): (Vec<String>, Vec<String>) =
            hosts.iter().cloned().partition(|host| host == self.host_name());
        let (own_result, answers) = tokio::join!(
            async {
                match own.first() {
                    Some(_) => Some(self.roll_back_to(stage, digest, reason).await),
                    None => None,
                }
            },
            self.ask(&others, stage, &act, until)
        );
        let mut answers = answers?;
        if let (Some(host), Some(result)) = (own.first(), own_result) {
            answers.insert(host.clone(), result?.into());
        }
        let answered = hosts.iter().map(|host| HostAnswer {
            host: host.clone(),
            digest: match answers.remove(host).into() {
                RollBack::Done(digest) => Ok(digest),
                RollBack::NotFound => Err("no plugin file serves the stage there".to_owned()),
                RollBack::NoSuchVersion => Err("this version is not archived there".to_owned()),
                RollBack::Refused(why) => Err(why),
            },
        });
        Ok(answered.collect())
    }

    /// Sends a command to other hosts, and waits for their answers. A host that is not live any more is
    /// not waited for.
    async fn ask(
        &self,
        hosts: &[String],
        stage: &str,
        act: &Act,
        until: Instant,
    ) -> Result<HashMap<String, Answer>, StoreError> {
        let store = &self.services.store;
        let command = Command { stage: stage.to_owned(), act: act.clone(), by: actor().into() };
        let command = serde_json::to_string(&command).expect("texts always serialise");
        let commands =
            hosts.iter().map(|host| NewCommand { host: host.clone(), command: command.clone() });
        let mut answers = HashMap::new();
        if hosts.is_empty() {
            return Ok(answers);
        }
        let ids = store.send_commands(commands.collect()).await?;
        loop {
            for (id, answer) in store.command_answers(&ids).await? {
                let place = ids.iter().position(|sent| *sent == id);
                let host = place.and_then(|place| hosts.get(place));
                if let (Some(host), Ok(answer)) = (host, serde_json::from_str(&answer)) {
                    answers.insert(host.clone(), answer);
                }
            }
            let live = self.cluster.others();
            let is_live = |host: &String| live.iter().any(|one| one.host == *host);
            let is_missing = |host: &&String| !answers.contains_key(*host) && is_live(host);
            if !hosts.iter().any(|host| is_missing(&host)) || Instant::now() >= until {
                return Ok(answers);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
