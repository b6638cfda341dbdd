//! What a route needs, as the route table says it, and the check of it.

use axum::extract::{FromRequestParts as _, Query, RawPathParams, Request, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::MethodRouter;
use serde_json::{Value, json};

use crate::domain::access::{Permission, Requester, Target};
use crate::http::problem::{Answer, Kind, Problem};
use crate::http::subjects::OfKind;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// One of these; none: any principal will do.
    any_of: &'static [Permission],
    /// And this, everywhere.
    also: Option<Permission>,
    on: On,
}

/// What the permission must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Everything.
    Everything,
    /// Something: the handler finds out what the request is about, and checks that.
    SomeScope,
    /// The stage in the path or in the query; everything if there is none.
    Stage,
    /// The event type in the path.
    EventType,
    /// The type of the first event of the kind in the path.
    FirstEvent,
    /// Events of this type.
    Type(&'static str),
}

impl Need {
    /// One of these permissions.
    pub const fn any_of(any_of: &'static [Permission], on: On) -> Self {
        Self { any_of, also: None, on }
    }

    /// Any principal will do.
    pub const PRINCIPAL: Self = Self::any_of(&[], On::SomeScope);

    /// And this permission, everywhere.
    pub const fn and(self, also: Permission) -> Self {
        Self { also: Some(also), ..self }
    }

    /// Lets only requests pass whose requester has it.
    pub fn guard<S: Clone + Send + Sync + 'static>(
        self,
        handlers: MethodRouter<S>,
    ) -> MethodRouter<S> {
        handlers.route_layer(from_fn_with_state(self, check))
    }

    /// For people.
    pub fn describe(&self) -> String {
        let names: Vec<String> = self.any_of.iter().map(|one| format!("`{one}`")).collect();
        if names.is_empty() {
            return "any principal".to_owned();
        }
        let on = match self.on {
            On::Everything => String::new(),
            On::SomeScope => " on what the request is about".to_owned(),
            On::Stage => " on the stage".to_owned(),
            On::EventType => " on the event type".to_owned(),
            On::FirstEvent => " on the type of the first event".to_owned(),
            On::Type(event_type) => format!(" on events of the type `{event_type}`"),
        };
        let also = self.also.map(|also| format!(", and `{also}`")).unwrap_or_default();
        format!("{}{on}{also}", names.join(" or "))
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let names = |all: &[Permission]| all.iter().map(|one| one.name()).collect::<Vec<_>>();
        let on = match self.on {
            On::Everything => "everything".to_owned(),
            On::SomeScope => "some".to_owned(),
            On::Stage => "stage".to_owned(),
            On::EventType => "type".to_owned(),
            On::FirstEvent => "first-event".to_owned(),
            On::Type(event_type) => format!("type/{event_type}"),
        };
        json!({ "any_of": names(self.any_of), "and": self.also.map(Permission::name), "on": on })
    }

    fn is_met(&self, requester: &Requester, target: Target<'_>) -> Answer<()> {
        let granted =
            self.any_of.is_empty() || self.any_of.iter().any(|one| requester.may(*one, target));
        if !granted {
            return Err(forbidden(requester, self.any_of, target));
        }
        match self.also {
            Some(also) => requester.require(also, Target::Everything),
            None => Ok(()),
        }
    }
}

/// The answer to a requester who lacks a permission.
pub(super) fn forbidden(
    requester: &Requester,
    any_of: &[Permission],
    target: Target<'_>,
) -> Problem {
    let names: Vec<String> = any_of.iter().map(|one| format!("`{one}`")).collect();
    let target = target.to_string();
    let on = if target.is_empty() { String::new() } else { format!(" on {target}") };
    let (who, what) = (requester.principal.id(), names.join(" or "));
    tracing::debug!(who, address = ?requester.address, what, "permission missing");
    Problem::new(Kind::FORBIDDEN, format!("`{who}` lacks the permission {what}{on}"))
}

/// Lets a request pass whose requester has what its route needs.
async fn check(State(need): State<Need>, request: Request, next: Next) -> Answer<Response> {
    let (mut parts, body) = request.into_parts();
    let requester = parts.extensions.get::<Requester>().cloned().ok_or_else(Problem::internal)?;
    let named;
    let target = match need.on {
        On::Everything => Target::Everything,
        On::SomeScope => Target::Anything,
        On::Type(event_type) => Target::Type(event_type),
        On::FirstEvent => {
            let kind = parts.extensions.get::<OfKind>().cloned().ok_or_else(Problem::internal)?;
            named = kind.first_event().to_owned();
            Target::Type(&named)
        }
        On::Stage => {
            let found = path_parameter(&mut parts, "stage").await?;
            named = found.or_else(|| stage_in_query(&parts.uri)).unwrap_or_default();
            if named.is_empty() { Target::Everything } else { Target::Stage(&named) }
        }
        On::EventType => {
            named = path_parameter(&mut parts, "name").await?.ok_or_else(Problem::internal)?;
            Target::Type(&named)
        }
    };
    need.is_met(&requester, target)?;
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn path_parameter(parts: &mut Parts, name: &str) -> Answer<Option<String>> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| Problem::internal())?;
    let mut found = params.iter().filter(|(key, _)| *key == name);
    Ok(found.next().map(|(_, value)| value.to_owned()))
}

/// The stage that a query selects. One that is named twice is refused by the handler.
fn stage_in_query(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let mut stages = pairs.into_iter().filter(|(name, _)| name == "stage");
    match (stages.next(), stages.next()) {
        (Some((_, stage)), None) => Some(stage),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_found_in_a_query_if_it_is_named_once() {
        let find = |uri: &'static str| stage_in_query(&Uri::from_static(uri));
        assert_eq!(find("/dead-letters?limit=2&stage=pay%6Dent").as_deref(), Some("payment"));
        assert_eq!(find("/dead-letters?stage=payment&stage=shipping"), None);
        assert_eq!(find("/dead-letters"), None);
    }
}
