//! What hosts ask each other to do by way of the store, and how a host does it: closing circuit breakers,
//! and roll-backs. Pauses are no commands: every host follows the controls in the store.
//!
//! A command is carried out once or not at all, as the operator who asked for it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::app::plugins::RollBack;
use crate::domain::actor::Actor;
use crate::store::StoreError;

/// A command, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) stage: String,
    #[serde(flatten)]
    pub(super) act: Act,
    /// Who asked for it.
    pub(super) by: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub(super) enum Act {
    CloseBreaker { reason: Option<String> },
    RollBack { digest: Option<String>, reason: Option<String> },
}

/// An [`Actor`], as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operator {
    kind: String,
    id: String,
    address: Option<IpAddr>,
}

/// What a host answers, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub(super) enum Answer {
    Closed,
    RolledBack { digest: String },
    NotFound,
    NoSuchVersion,
    Refused { why: String },
}

impl From<Actor> for Operator {
    fn from(actor: Actor) -> Self {
        let (kind, id) = (actor.kind().to_owned(), actor.id().to_owned());
        Self { kind, id, address: actor.address() }
    }
}

impl From<Operator> for Actor {
    fn from(Operator { kind, id, address }: Operator) -> Self {
        Self::new(kind, id).at(address)
    }
}

impl From<RollBack> for Answer {
    fn from(result: RollBack) -> Self {
        match result {
            RollBack::Done(digest) => Self::RolledBack { digest },
            RollBack::NotFound => Self::NotFound,
            RollBack::NoSuchVersion => Self::NoSuchVersion,
            RollBack::Refused(why) => Self::Refused { why },
        }
    }
}

impl App {
    /// As [`App::roll_back`]; done, if this version serves already.
    pub(super) async fn roll_back_to(
        &self,
        stage: &str,
        digest: Option<&str>,
        reason: Option<&str>,
    ) -> Result<RollBack, StoreError> {
        let running = self.services.pipeline.find(stage).and_then(|stage| stage.running());
        let serves = running.is_some_and(|running| digest == Some(&*running.digest));
        match digest.filter(|_| serves) {
            Some(digest) => Ok(RollBack::Done(digest.to_owned())),
            None => self.roll_back(stage, digest, reason).await,
        }
    }

    /// Does what another host asks for.
    pub(super) async fn carry_out(&self, command: &str) -> Answer {
        let Command { stage, act, by } = match serde_json::from_str(command) {
            Ok(command) => command,
            Err(error) => {
                tracing::error!(%error, "a command of another host could not be read");
                let why = format!("host {} does not know this command", self.services.host);
                return Answer::Refused { why };
            }
        };
        tracing::info!(
            stage,
            ?act,
            by = by.id,
            "carrying out a command that another host received"
        );
        let work = async {
            match act {
                Act::CloseBreaker { reason } => {
                    match self.close_breaker(&stage, reason.as_deref()).await {
                        Some(_) => Answer::Closed,
                        None => Answer::NotFound,
                    }
                }
                Act::RollBack { digest, reason } => {
                    match self.roll_back_to(&stage, digest.as_deref(), reason.as_deref()).await {
                        Ok(result) => result.into(),
                        Err(error) => Answer::Refused { why: error.to_string() },
                    }
                }
            }
        };
        Self::acting_as(by.into(), work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_answers_are_read_as_they_were_written() {
        let reason = Some("slow".to_owned());
        let roll_back = Act::RollBack { digest: Some("ab".to_owned()), reason: reason.clone() };
        for act in [Act::CloseBreaker { reason }, roll_back] {
            let by = Operator::from(Actor::new("key", "key/ada").at("10.0.0.1".parse().ok()));
            let command = Command { stage: "payment".to_owned(), act, by };
            let text = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
        }
        // As hosts write it that know no reasons.
        let by = r#""by": { "kind": "key", "id": "key/ada", "address": null }"#;
        let text = format!(r#"{{ "stage": "payment", "act": "close-breaker", {by} }}"#);
        let command = serde_json::from_str::<Command>(&text).unwrap();
        assert_eq!(command.act, Act::CloseBreaker { reason: None });
        for answer in [Answer::Closed, Answer::Refused { why: "no".to_owned() }] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
        }
    }
}
