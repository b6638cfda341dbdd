//! A configuration that is built in code is checked like a file.

use anyhow::{Context as _, Result};
use postrider::{BuildError, Config, ConfigError, Host, StageConfig};

/// The same values in code and in a file.
#[tokio::test]
async fn configuration_in_code_has_the_problems_of_a_file() -> Result<()> {
    let text = "namespace = \"Not A Name\"\nhttp.listen = \"nowhere\"\nstore.url = \"mysql:x\"\n\
                events.hops_max = 0\n[stages.payment]\nlanes = 65\nconsumes = []\n\
                [stages.payment.retry]\njitter = 2.0\n";
    let ConfigError(of_file) = Config::from_toml(text).err().context("the file is invalid")?;
    let mut config = Config { namespace: "Not A Name".into(), ..Config::default() };
    config.http.listen = "nowhere".into();
    config.store.url = "mysql:x".into();
    config.events.hops_max = 0;
    let payment = config.stages.entry("payment".into()).or_default();
    payment.lanes = 65;
    payment.consumes = Some(Vec::new());
    payment.retry.jitter = 2.0;
    let ConfigError(of_code) = config.validate().err().context("the same is invalid")?;
    assert_eq!(of_code, of_file);
    assert_eq!(of_code.len(), 7, "{of_code:?}");
    let built = Host::builder().config(config).build().await;
    let error = built.err().context("an invalid configuration was built")?;
    assert!(
        matches!(&error, BuildError::Config(ConfigError(found)) if *found == of_file),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn secrets_that_no_source_has_read_are_read_when_the_host_is_built() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, "token")?;
    let path = file.path().display();
    let text = format!("[stages.payment.secrets]\ntoken = {{ file = \"{path}\" }}\n");
    let secrets = Config::from_toml(&text)?.stage("payment").secrets.clone();
    drop(file);
    let ConfigError(of_file) = Config::from_toml(&text).err().context("the secret is gone")?;
    let mut config = Config::default();
    config.stages.insert("payment".into(), StageConfig { secrets, ..StageConfig::default() });
    let built = Host::builder().config(config).build().await;
    let error = built.err().context("a missing secret was accepted")?;
    assert!(
        matches!(&error, BuildError::Config(ConfigError(found)) if *found == of_file),
        "{error}"
    );
    Ok(())
}

#[test]
fn configuration_in_code_has_no_plugins_folder_unless_it_names_one() -> Result<()> {
    assert_eq!(Config::default().plugins.dir.as_os_str(), "");
    assert_eq!(Config::from_toml("")?.plugins.dir.as_os_str(), "plugins");
    assert_eq!(Config::from_toml("plugins.dir = \"\"")?.plugins.dir.as_os_str(), "");
    let text = "plugins.dir = \"\"\n[stages.payment]\nplugin = \"payment.wasm\"\n";
    let ConfigError(problems) = Config::from_toml(text).err().context("there is no folder")?;
    assert_eq!(problems, ["stages.payment.plugin: there is no plugins folder: set plugins.dir"]);
    Ok(())
}
