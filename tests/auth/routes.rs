//! Every route, with every kind of credential, against what the route table says that it needs.
//!
//! The expectation is made here from the OpenAPI document alone.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Guarded, TOKENS, id_of};
use crate::support::harness::{Backend, TestEnv, on_both_back_ends, root};

on_both_back_ends![every_route_lets_pass_who_has_what_it_needs];

/// What each role includes.
const INCLUDED: [(&str, &[&str]); 6] = [
    ("read", &["read"]),
    ("submit", &["submit"]),
    ("operate", &["operate", "read"]),
    ("admin", &["admin", "operate", "submit", "read"]),
    ("payloads", &["payloads"]),
    ("secret-names", &["secret-names"]),
];

/// The combinations of roles that are tested; each is a principal's.
const ROLES: [&[&str]; 14] = [
    &["read"],
    &["submit"],
    &["operate"],
    &["admin"],
    &["payloads"],
    &["secret-names"],
    &["read", "payloads"],
    &["read:stage/payment"],
    &["read:stage/payment", "payloads"],
    &["operate:stage/payment"],
    &["operate:stage/other"],
    &["submit:type/order.*"],
    &["submit:type/desk.note"],
    &["submit:type/nothing.else"],
];

/// A route of the document.
struct Route {
    method: Method,
    path: String,
    /// None: it is open.
    need: Option<Value>,
}

fn routes(document: &Value) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().context("paths")? {
        for (method, operation) in operations.as_object().context("operations")? {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())?;
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            let need = operation.get("x-permission").cloned();
            ensure!(
                is_open != need.is_some(),
                "{method} {path} says neither what it needs nor that it is open"
            );
            routes.push(Route { method, path: path.clone(), need });
        }
    }
    Ok(routes)
}

#[test]
fn every_documented_route_says_what_it_needs() -> Result<()> {
    let document = std::fs::read(root().join("docs/openapi.json"))?;
    let routes = routes(&serde_json::from_slice(&document)?)?;
    let open = routes.iter().filter(|route| route.need.is_none());
    let mut open: Vec<&str> = open.map(|route| &*route.path).collect();
    open.sort_unstable();
    let expected =
        ["/health", "/health/db", "/health/queue", "/problems", "/problems/{name}", "/ready"];
    assert_eq!(open, expected, "open to everyone");
    assert!(routes.len() > 50, "{}", routes.len());
    Ok(())
}

/// What a request is about.
struct Subject {
    dead_letter: i64,
    job: String,
}

impl Route {
    /// Its path with values that exist, where they can.
    fn url(&self, subject: &Subject) -> String {
        let id = match &*self.path {
            path if path.starts_with("/dead-letters/jobs") => subject.job.clone(),
            path if path.starts_with("/dead-letters") => subject.dead_letter.to_string(),
            path if path.starts_with("/keys") => "0000000000000000".to_owned(),
            _ => "1".to_owned(),
        };
        let name = if self.path.starts_with("/problems") { "forbidden" } else { "desk.note" };
        self.path
            .replace("{id}", &id)
            .replace("{name}", name)
            .replace("{stage}", "payment")
            .replace("{correlation}", "none")
            .replace("{sku}", "Book")
    }

    fn body(&self) -> Option<Value> {
        let write = self.method == Method::POST;
        write.then(|| match &*self.path {
            "/events" => json!({
                "specversion": "1.0", "id": "1", "source": "/desk", "type": "desk.note", "subject": "1",
            }),
            "/dead-letters/replay" => json!({ "filter": { "stage": "payment", "code": "none" } }),
            "/dead-letters/discard" => {
                json!({ "filter": { "stage": "payment", "code": "none" }, "reason": "a test" })
            }
            _ => json!({}),
        })
    }

    /// The stage or the event type that a request is about, if it is about one: `stage/payment`.
    fn about(&self) -> Option<&'static str> {
        let need = self.need.as_ref()?;
        match need["on"].as_str()? {
            "stage" if self.path.contains("{stage}") => Some("stage/payment"),
            // The handler finds it out.
            "some" if self.path.starts_with("/dead-letters") && !self.is_list() => {
                Some("stage/payment")
            }
            "some" if self.path == "/events" => Some("type/desk.note"),
            "type" => Some("type/desk.note"),
            "first-event" => Some("type/order.created"),
            "type/product.stocked" => Some("type/product.stocked"),
            _ => None,
        }
    }

    fn is_list(&self) -> bool {
        self.path == "/dead-letters/jobs"
    }

    /// Whether these roles are enough.
    fn permits(&self, roles: &[&str]) -> bool {
        let Some(need) = &self.need else { return true };
        let texts = |value: &Value| -> Vec<String> {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let has = |permission: &str, everywhere: bool| {
            roles.iter().any(|role| {
                let (name, scope) =
                    role.split_once(':').map_or((*role, None), |(name, on)| (name, Some(on)));
                let included = INCLUDED.iter().find(|(one, _)| *one == name);
                let included = included.is_some_and(|(_, all)| all.contains(&permission));
                let covered = match (scope, self.about()) {
                    (None, _) => true,
                    _ if everywhere => false,
                    (Some(scope), Some(about)) => match scope.strip_suffix('*') {
                        Some(start) => about.starts_with(start),
                        None => scope == about,
                    },
                    // Something that a scope covers.
                    (Some(_), None) => need["on"] == "some",
                };
                included && covered
            })
        };
        let any_of = texts(&need["any_of"]);
        let one = any_of.is_empty() || any_of.iter().any(|one| has(one, false));
        one && need["and"].as_str().is_none_or(|also| has(also, true))
    }
}

async fn every_route_lets_pass_who_has_what_it_needs(backend: Backend) -> Result<()> {
    let toml = format!("{TOKENS}[stages.payment.retry]\nmax_attempts = 1\n");
    let env = TestEnv::empty_on(backend, &toml).await?;
    let guarded = Guarded::start(&env).await?;
    let document = guarded.http.get(format!("{}/openapi.json", guarded.host.client.url));
    let document: Value = document.send().await?.json().await?;
    let routes = routes(&document)?;
    let dead_letter = guarded.dead_letter("1").await?;
    let filter = json!({ "filter": { "stage": "payment", "code": "none" } });
    let (_, job) = guarded.post("/dead-letters/replay", &guarded.admin, &filter).await?;
    let job = job["id"].as_str().context("a job")?.to_owned();
    let subject = Subject { dead_letter, job };

    let wrong = format!("{}x", &guarded.admin[..guarded.admin.len() - 1]);
    let unknown = format!("pr_0123456789abcdef_{}", "A".repeat(43));
    let expired = expired(&guarded).await?;
    let revoked = guarded.key("revoked", &["admin"]).await?;
    let path = format!("/keys/{}", id_of(&revoked));
    guarded.send(Method::DELETE, &path, Some(&guarded.admin), None).await?.error_for_status()?;
    let invalid =
        [None, Some(&*wrong), Some(&unknown), Some(&expired), Some(&revoked), Some("a.b.c")];
    for route in &routes {
        for token in invalid {
            for prefix in ["", "/api/v1", "/namespaces/orders"] {
                let (unprefixed, at) =
                    (prefix.is_empty(), format!("{prefix}{}", route.url(&subject)));
                if (prefix == "/api/v1" && !is_business(&route.path))
                    || (!unprefixed && route.path == "/namespaces")
                    || (backend == Backend::Servers && !unprefixed)
                {
                    continue;
                }
                let said =
                    guarded.send(route.method.clone(), &at, token, route.body().as_ref()).await?;
                let (status, what) = (said.status(), format!("{} {at} {token:?}", route.method));
                if route.need.is_some() {
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
                    let challenge =
                        said.headers().get("www-authenticate").context("a challenge")?;
                    assert!(challenge.to_str()?.starts_with("Bearer realm="), "{what}");
                } else {
                    assert!(status.is_success(), "{what}: {status}");
                }
            }
        }
    }
    for (number, roles) in ROLES.into_iter().enumerate() {
        let key = guarded.key(&format!("client-{number}"), roles).await?;
        for route in &routes {
            let at = route.url(&subject);
            let said =
                guarded.send(route.method.clone(), &at, Some(&key), route.body().as_ref()).await?;
            let (status, problem) = super::answer(said).await?;
            let what = format!("{} {at} with {roles:?}: {status} {problem}", route.method);
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{what}");
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{what}");
            assert_eq!(status != StatusCode::FORBIDDEN, route.permits(roles), "{what}");
            if status == StatusCode::FORBIDDEN {
                let detail = problem["detail"].as_str().context("a detail")?;
                let names = INCLUDED.iter().any(|(name, _)| detail.contains(&format!("`{name}`")));
                assert!(names && detail.contains("lacks the permission"), "{what}");
            }
        }
    }
    guarded.stop().await
}

fn is_business(path: &str) -> bool {
    let business = ["/subjects", "/events", "/products", "/orders"];
    business.iter().any(|start| path.starts_with(start)) && path != "/events/import"
}

/// A key that has expired.
async fn expired(guarded: &Guarded) -> Result<String> {
    let soon =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() + 300;
    let body = json!({ "principal": "late", "roles": ["admin"], "expires_at": soon as u64 });
    let (status, key) = guarded.post("/keys", &guarded.admin, &body).await?;
    ensure!(status == StatusCode::CREATED, "{key}");
    let token = key["token"].as_str().context("a token")?.to_owned();
    crate::support::harness::eventually("the key to expire", || async {
        let (status, _) = guarded.get("/stages", &token).await?;
        Ok((status == StatusCode::UNAUTHORIZED).then_some(()))
    })
    .await?;
    Ok(token)
}
