//! A host that loads the plugins of a configuration as a real one would, on a temporary store and
//! the embedded broker. It is never run: it serves no API and processes no messages.

use anyhow::{Context as _, Result};

use postrider::{Config, Host};

/// A host with every plugin loaded; its store is removed when it is dropped.
pub(crate) struct OfflineHost {
    pub(crate) host: Host,
    _folder: tempfile::TempDir,
}

impl OfflineHost {
    /// Loads the plugins of `config`; its store and broker are not opened.
    pub(crate) async fn load(mut config: Config) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        config.store.url = format!("sqlite:{}/offline.db", folder.path().display());
        "embedded:".clone_into(&mut config.broker.url);
        config.clear_state_places();
        config.plugins.archive_dir = folder.path().join("archive");
        let host = Host::builder().config(config).build().await?;
        Ok(Self { host, _folder: folder })
    }
}
