//! A reader that closes the pipe early, such as `head`, ends a command quietly.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::support::harness::TestEnv;
use crate::support::process::binary;

/// Runs a command whose standard output, or error, nobody reads. Returns its exit code and what it
/// wrote to the other one.
fn run_unread(arguments: &[&str], unread: Stream) -> Result<(Option<i32>, String)> {
    // The reading end is closed before the program starts.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(binary()?);
    command.args(arguments);
    match unread {
        Stream::Output => command.stdout(writer).stderr(Stdio::piped()),
        Stream::Errors => command.stdout(Stdio::piped()).stderr(writer),
    };
    let output = command.output()?;
    let other = match unread {
        Stream::Output => output.stderr,
        Stream::Errors => output.stdout,
    };
    Ok((output.status.code(), String::from_utf8(other)?))
}

#[derive(Clone, Copy)]
enum Stream {
    Output,
    Errors,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_pipe_ends_a_command_quietly() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start().await?;
    for id in 0..20 {
        let order = json!({ "order_id": id, "items": ["Book"] });
        host.client.post("/orders", &order).await?;
    }
    let url = host.client.url.clone();
    let plugins = env.plugins();
    let folder = plugins.to_str().context("a path of letters")?;
    let commands: [&[&str]; 13] = [
        &["openapi"],
        &["completions", "bash"],
        &["config", "check", "--json"],
        &["plugin", "list", "--url", &url],
        &["plugin", "bindings", "--help"],
        &["plugin", "new", "--help"],
        &["orders", "list", "--url", &url],
        &["orders", "list", "--url", &url, "--json"],
        &["orders", "get", "1", "--url", &url],
        &["events", "export", "--url", &url],
        &["events", "tail", "--since", "1h", "--url", &url],
        &["stages", "list", "--url", &url],
        &["dlq", "list", "--url", &url],
    ];
    for command in commands {
        let (code, errors) = run_unread(command, Stream::Output)?;
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{command:?}");
    }
    // Nobody reads why it fails either: the program must not panic over that.
    let (code, _) = run_unread(&["plugin", "check", folder], Stream::Errors)?;
    assert!(code.is_some_and(|code| code < 100), "{code:?}");
    host.stop().await
}
