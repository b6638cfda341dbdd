//! A plugin has only the capabilities that the operator granted. A plugin that needs more is
//! refused when it is loaded, with a remedy.

use anyhow::Result;

use crate::support::harness::TestEnv;

/// A component with a single import.
fn asks_for(import: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!("(component (import \"{import}\" (instance)))"))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ungranted_import_is_refused_with_its_remedy() -> Result<()> {
    let env = TestEnv::shipped("")?;
    let cases = [
        (
            "incoming.wasm",
            "wasi:http/incoming-handler@0.2.0",
            "of wasi:http a stage may import only",
        ),
        ("newer.wasm", "postrider:stage/state@1.1.0", "needs Postrider 1.1"),
        ("next.wasm", "postrider:stage/state@2.0.0", "needs Postrider 2.0"),
        ("foreign.wasm", "acme:database/sql@1.0.0", "may import only"),
    ];
    for (file, import, _) in cases {
        std::fs::write(env.plugins().join(file), asks_for(import)?)?;
    }
    let host = env.start().await?;
    let (_, plugins) = host.client.get("/plugins").await?;
    for (file, import, remedy) in cases {
        let found = plugins["items"]
            .as_array()
            .and_then(|all| all.iter().find(|plugin| plugin["file"] == file));
        let reason = found.and_then(|plugin| plugin["last_error"].as_str()).unwrap_or_default();
        assert!(reason.contains(import) && reason.contains(remedy), "{file}: {reason}");
    }
    host.stop().await
}
