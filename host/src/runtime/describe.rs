//! `describe`: called once for each version of a file, in an instance of its own.
//!
//! Bounds: time, including that of the guest's start functions; what the host copies from the guest;
//! counts and sizes of everything in the description. Nothing but the load of this file waits for it.

use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::Instance;

use super::StageLimits;
use super::guest::{Guest, Stop, bindings};
use super::load::{HANDLER, LoadError, new_store};
use super::wasm_stage::cause;
use crate::domain::event::{HOST_EVENT_PREFIX, topic_problem};
use crate::domain::name::is_name;
use crate::stage::event_settings::EventSetting;
use crate::stage::handler::Description;
use bindings::exports::postrider::stage::handler as contract;

/// Longest time for `describe` and the start functions before it.
const TIME_MAX: Duration =
    if cfg!(fuzzing) { Duration::from_millis(100) } else { Duration::from_secs(10) };
/// Most bytes that the host copies for a description.
const COPIED_MAX_BYTES: usize = 8 << 20;

/// Most event types and patterns that a stage consumes, its settings included.
const CONSUMES_MAX: usize = 100;
/// Most event types that it emits.
const EMITS_MAX: usize = 100;
/// Most attributes.
const ATTRIBUTES_MAX: usize = 50;
const VERSION_MAX_BYTES: usize = 100;
const SUMMARY_MAX_BYTES: usize = 1_000;
const ATTRIBUTE_NAME_MAX_BYTES: usize = 100;
/// One value: the JSON Schema of a stage's settings is one.
const ATTRIBUTE_MAX_BYTES: usize = 64 << 10;
/// All names and values.
const ATTRIBUTES_MAX_BYTES: usize = 128 << 10;
/// Most problems that a refusal lists.
const PROBLEMS_MAX: usize = 10;
/// Most characters that it shows of an invalid text.
const SHOWN_MAX_CHARS: usize = 80;
/// Most bytes that it shows of what the guest wrote.
const SAID_MAX_BYTES: usize = 1_000;

/// Calls `describe` in an instance of its own, in which every import but `log` traps.
pub(super) async fn describe(
    pre: &bindings::StagePre<Guest>,
    wasi: bool,
) -> Result<Description, LoadError> {
    let limits = StageLimits { deadline_ms: TIME_MAX.as_millis() as u64, ..StageLimits::default() };
    let mut store = new_store(pre.engine(), Guest::new(limits, wasi));
    store.set_hostcall_fuel(COPIED_MAX_BYTES);
    let asking = tokio::time::timeout(TIME_MAX, ask(pre, &mut store)).await;
    let described = match asking {
        Ok(Ok(described)) => described,
        Ok(Err(Failure::Types(types))) => return Err(LoadError::Link(types)),
        Ok(Err(Failure::Call(error))) => {
            return Err(LoadError::Describe(why(&error, store.data())));
        }
        Err(_) => return Err(LoadError::Describe(late())),
    };
    let contract::Description { name, version, summary, consumes, emits, attributes } = described;
    let description = Description { name, version, summary, consumes, emits, attributes };
    check_description(&description)?;
    Ok(description)
}

/// Why there is no description.
enum Failure {
    /// The exports are not those of the contract.
    Types(String),
    /// The guest failed.
    Call(wasmtime::Error),
}

async fn ask(
    pre: &bindings::StagePre<Guest>,
    store: &mut Store<Guest>,
) -> Result<contract::Description, Failure> {
    let instance =
        pre.instance_pre().instantiate_async(&mut *store).await.map_err(Failure::Call)?;
    let stage = bindings::Stage::new(&mut *store, &instance)
        .map_err(|error| Failure::Types(wrong_types(store, &instance, &error)))?;
    stage.postrider_stage_handler().call_describe(store).await.map_err(Failure::Call)
}

/// Which function has other types than the contract's.
fn wrong_types(store: &mut Store<Guest>, instance: &Instance, error: &wasmtime::Error) -> String {
    type Describe = (contract::Description,);
    type Handle = (Result<Vec<contract::Emitted>, contract::Failure>,);
    let handler = instance.get_export_index(&mut *store, None, HANDLER);
    let mut index =
        |name: &str| instance.get_export_index(&mut *store, Some(handler.as_ref()?), name);
    let (describe, handle) = (index("describe"), index("handle"));
    let found = [
        (
            "describe",
            describe.and_then(|at| instance.get_typed_func::<(), Describe>(&mut *store, at).err()),
        ),
        (
            "handle",
            handle.and_then(|at| {
                instance.get_typed_func::<(&contract::Event<'_>,), Handle>(&mut *store, at).err()
            }),
        ),
    ];
    let functions: Vec<String> = found
        .iter()
        .filter_map(|(name, error)| {
            let error = error.as_ref()?;
            Some(format!("`{name}` has other parameters or results: {}", error.root_cause()))
        })
        .collect();
    if functions.is_empty() { format!("{error:#}") } else { functions.join("; ") }
}

fn late() -> String {
    format!("it did not return within {} ms", TIME_MAX.as_millis())
}

/// Why the guest failed: in its own words, if it left any.
fn why(error: &wasmtime::Error, guest: &Guest) -> String {
    match error.downcast_ref::<Stop>() {
        Some(Stop::Deadline) => return late(),
        Some(stop) => return stop.to_string(),
        None => {}
    }
    let (_, what) = cause(error);
    let said = guest.last_error.clone().or_else(|| guest.stderr());
    let said = said.map(|said| in_one_line(&said)).filter(|said| !said.is_empty());
    said.map_or_else(|| what.clone(), |said| format!("{said} ({what})"))
}

/// What a guest wrote before it failed, without the hints of its language's runtime.
fn in_one_line(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines.filter(|line| !line.starts_with("note: run with"));
    let mut line = told.collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(SAID_MAX_BYTES));
    line
}

/// Every problem of a description; counts and sizes come first, so that the rest is bounded.
pub(crate) fn check_description(description: &Description) -> Result<(), LoadError> {
    let mut problems = size_problems(description);
    if problems.is_empty() {
        problems = content_problems(description);
    }
    if problems.len() > PROBLEMS_MAX {
        let more = problems.len() - PROBLEMS_MAX;
        problems.truncate(PROBLEMS_MAX);
        problems.push(format!("and {more} more"));
    }
    if problems.is_empty() { Ok(()) } else { Err(LoadError::Description(problems)) }
}

fn size_problems(description: &Description) -> Vec<String> {
    let Description { version, summary, consumes, emits, attributes, .. } = description;
    let named: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let longest = |text: fn(&(String, String)) -> usize| attributes.iter().map(text).max();
    let name = longest(|(name, _)| name.len()).unwrap_or_default();
    let value = longest(|(_, value)| value.len()).unwrap_or_default();
    let sizes = [
        ("`consumes`", consumes.len(), CONSUMES_MAX, "entries"),
        ("`emits`", emits.len(), EMITS_MAX, "entries"),
        ("`attributes`", attributes.len(), ATTRIBUTES_MAX, "entries"),
        ("the version", version.len(), VERSION_MAX_BYTES, "bytes"),
        ("the summary", summary.len(), SUMMARY_MAX_BYTES, "bytes"),
        ("the longest name of an attribute", name, ATTRIBUTE_NAME_MAX_BYTES, "bytes"),
        ("the largest value of an attribute", value, ATTRIBUTE_MAX_BYTES, "bytes"),
        ("the `attributes` together", named, ATTRIBUTES_MAX_BYTES, "bytes"),
    ];
    let over = sizes.into_iter().filter(|(_, size, max, _)| size > max);
    let mut problems: Vec<String> = over
        .map(|(what, size, max, unit)| format!("{what}: {size} {unit}; the limit is {max}"))
        .collect();
    if problems.is_empty() {
        let in_settings: usize =
            EventSetting::all(description).iter().map(|setting| setting.default.len()).sum();
        if in_settings > CONSUMES_MAX {
            problems.push(format!("the event types in its settings: {in_settings} entries; the limit is {CONSUMES_MAX}"));
        }
    }
    problems
}

/// An invalid text, shortened.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(SHOWN_MAX_CHARS).collect();
    if chars.next().is_some() { format!("{start}…") } else { start }
}

fn content_problems(description: &Description) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_name(&description.name) {
        problems.push(format!(
            "the name `{}` must match [a-z][a-z0-9-]{{0,39}}",
            shown(&description.name)
        ));
    }
    if description.consumes.is_empty() {
        problems.push("it consumes no event type".to_owned());
    }
    problems.extend(description.consumes.iter().filter_map(|text| {
        Some(format!("`{}` in `consumes` {}", shown(text), topic_problem(text)?))
    }));
    for event_type in &description.emits {
        let why = topic_problem(event_type);
        let event_type = shown(event_type);
        if let Some(why) = why {
            problems.push(format!("`{event_type}` in `emits` {why}"));
        } else if event_type.contains(['*', '#']) {
            problems.push(format!("`{event_type}` in `emits` is a pattern, not an event type"));
        } else if event_type.starts_with(HOST_EVENT_PREFIX) {
            problems.push(format!("`{event_type}` in `emits`: types that start with `{HOST_EVENT_PREFIX}` are reserved for the host"));
        }
    }
    let texts = description.consumes.iter().chain(&description.emits).chain([&description.version]);
    if texts.clone().any(|text| text.contains('\0')) {
        problems.push(
            "a version or an event type with a NUL character, which no database keeps".to_owned(),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("a.{number}")).collect()
    }

    fn described(change: impl FnOnce(&mut Description)) -> Result<(), String> {
        let mut description = Description::new("a", "1", "");
        description.consumes = texts(1);
        change(&mut description);
        check_description(&description).map_err(|error| error.to_string())
    }

    #[test]
    fn counts_and_sizes_of_a_description_are_bounded() {
        type Change = fn(&mut Description, usize);
        let attribute = |name: usize, value: usize| ("n".repeat(name), "v".repeat(value));
        let cases: [(&str, usize, Change); 7] = [
            ("`consumes`", CONSUMES_MAX, |of, size| of.consumes = texts(size)),
            ("`emits`", EMITS_MAX, |of, size| of.emits = texts(size)),
            ("`attributes`", ATTRIBUTES_MAX, |of, size| {
                of.attributes = vec![("n".to_owned(), String::new()); size];
            }),
            ("the version", VERSION_MAX_BYTES, |of, size| of.version = "v".repeat(size)),
            ("the summary", SUMMARY_MAX_BYTES, |of, size| of.summary = "s".repeat(size)),
            ("the longest name", ATTRIBUTE_NAME_MAX_BYTES, |of, size| {
                of.attributes = vec![("n".repeat(size), String::new())];
            }),
            ("the largest value", ATTRIBUTE_MAX_BYTES, |of, size| {
                of.attributes = vec![(String::new(), "v".repeat(size))];
            }),
        ];
        for (what, max, change) in cases {
            assert_eq!(described(|of| change(of, max)), Ok(()), "{what}");
            let refused = described(|of| change(of, max + 1)).unwrap_err();
            let limit = format!("the limit is {max}");
            assert!(refused.contains(what) && refused.contains(&limit), "{refused}");
        }
        let refused = described(|of| of.attributes = vec![attribute(1, 60_000); 3]).unwrap_err();
        assert!(refused.contains("together"), "{refused}");
        let types = texts(CONSUMES_MAX + 1).join(",");
        let schema = serde_json::json!({ "properties": { "on": { "format": "event-types", "default": types } } });
        let attribute = ("settingsschema".to_owned(), schema.to_string());
        let refused = described(|of| of.attributes = vec![attribute]).unwrap_err();
        assert!(refused.contains("event types in its settings"), "{refused}");
    }

    #[test]
    fn refusal_is_short_however_wrong_the_description_is() {
        let refused =
            described(|of| of.consumes = vec!["x ".repeat(1_000); CONSUMES_MAX]).unwrap_err();
        assert!(refused.len() < 2_000 && refused.contains("and 90 more"), "{refused}");
    }

    #[test]
    fn what_a_guest_said_fits_in_a_line() {
        let said = "\nthread '<unnamed>' panicked at src/lib.rs:3:9:\nno luck\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(in_one_line(said), "thread '<unnamed>' panicked at src/lib.rs:3:9: no luck");
        assert_eq!(in_one_line(&"é".repeat(1_000)).len(), SAID_MAX_BYTES);
    }
}
