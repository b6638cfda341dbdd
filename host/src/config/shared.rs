//! The settings that all hosts of a namespace should share, as short texts that can be compared.
//!
//! Guarantee: no confidential value is shown. A stage's settings, long values and the broker's URL
//! (without its password) appear as digests, and so do the names and places of its secrets.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Config;
use super::urls::mask_password;
use crate::domain::event::hex;

/// Sections whose values decide what happens to subjects, on whichever host.
const SECTIONS: [&str; 9] = [
    "auth",
    "subjects",
    "events",
    "ingress",
    "products",
    "retention",
    "recording",
    "defaults",
    "stages",
];
/// The section with a stage's secrets.
const SECRETS: &str = ".secrets";
/// Longest value that is shown.
const SHOWN_MAX: usize = 40;

impl Config {
    /// Values or digests by key.
    pub(crate) fn shared_settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let all = serde_json::to_value(self).unwrap_or_default();
        for section in SECTIONS {
            flatten(section, &all[section], &mut settings);
        }
        settings.insert("broker.url".to_owned(), digest(&mask_password(&self.broker.url)));
        flatten("broker.subscriptions", &all["broker"]["subscriptions"], &mut settings);
        if let Some(ring) = &self.encryption.ring {
            settings.insert("encryption.primary".to_owned(), ring.primary_id().to_owned());
        }
        settings.insert("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        settings
    }
}

fn flatten(key: &str, value: &Value, settings: &mut BTreeMap<String, String>) {
    if let Value::Object(inside) = value
        && !key.ends_with(SECRETS)
    {
        for (name, value) in inside {
            flatten(&format!("{key}.{name}"), value, settings);
        }
        return;
    }
    let text = value.to_string();
    if text == "{}" {
        return;
    }
    let hidden = key.contains(".settings.") || key.ends_with(SECRETS) || text.len() > SHOWN_MAX;
    settings.insert(key.to_owned(), if hidden { digest(&text) } else { text });
}

/// Enough of a digest to tell values apart.
fn digest(text: &str) -> String {
    const BYTES: usize = 6;
    format!("sha256:{}", hex(&Sha256::digest(text)[..BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_may_be_confidential_are_digests() {
        let text = "broker.url = \"amqp://u:secret@mq\"\n[stages.payment.settings]\nmerchant = \
                    \"secret\"\n[stages.payment.secrets]\nbank_key = { env = \"PATH\" }\n\
                    [stages.payment]\nlanes = 3\n";
        let settings = Config::from_toml(text).unwrap().shared_settings();
        assert_eq!(settings["stages.payment.lanes"], "3");
        assert_eq!(settings["events.hops_max"], "64");
        assert!(settings["broker.url"].starts_with("sha256:"));
        let all = format!("{settings:?}");
        assert!(
            all.contains("stages.payment.settings.merchant") && !all.contains("\"secret"),
            "{all}"
        );
        assert!(settings["stages.payment.secrets"].starts_with("sha256:"), "{all}");
        assert!(!all.contains("bank_key") && !all.contains("PATH"), "{all}");
        assert!(!settings.contains_key("defaults.secrets"), "{all}");
    }

    #[test]
    fn a_changed_password_is_no_difference() {
        let of = |url: &str| {
            let config = Config::from_toml(&format!("broker.url = \"{url}\"")).unwrap();
            config.shared_settings()
        };
        assert_eq!(of("amqp://u:old@mq/x"), of("amqp://u:new@mq/x"));
        assert_ne!(of("amqp://u:old@mq/x"), of("amqp://u:old@mq/y"));
    }
}
