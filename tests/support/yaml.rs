//! Files in YAML.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// The content of a file as JSON. A value with a tag, such as `!Ref Job`, is an object: `{"!Ref": "Job"}`.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parsed = yaml_serde::from_str(&text).with_context(|| path.display().to_string())?;
    to_json(parsed)
}

fn to_json(value: yaml_serde::Value) -> Result<Value> {
    use yaml_serde::Value as Yaml;
    Ok(match value {
        Yaml::Tagged(tagged) => json!({ tagged.tag.to_string(): to_json(tagged.value)? }),
        Yaml::Sequence(all) => Value::Array(all.into_iter().map(to_json).collect::<Result<_>>()?),
        Yaml::Mapping(all) => {
            let mut object = Map::new();
            for (key, value) in all {
                let Yaml::String(key) = key else { bail!("the key {key:?} is no text") };
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        plain => serde_json::to_value(plain)?,
    })
}
