//! `postrider logs`: the lines of one order, from files, from standard input, and as they are written;
//! and `postrider stages log-level`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::harness::{TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::{HostProcess, binary, postrider};

/// A line about an order, at a second.
fn line(second: u32, subject: &str, message: &str) -> String {
    let line = json!({
        "timestamp": format!("2026-01-31T12:00:{second:02}.000000Z"), "level": "INFO",
        "target": "postrider::delivery", "message": message, "stage": "payment", "attempt": 1,
        "subject": subject,
    });
    format!("{line}\n")
}

/// The messages of the lines that a command printed with `--json`.
fn messages(output: &str) -> Result<Vec<String>> {
    let message = |line: &str| -> Result<String> {
        let line: Value = serde_json::from_str(line)?;
        Ok(line["message"].as_str().context("a message")?.to_owned())
    };
    output.lines().map(message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_files_are_merged_by_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (one, other) = (folder.path().join("one.log"), folder.path().join("other.log"));
    fs::write(&one, line(1, "order/17", "first") + &line(3, "order/17", "third"))?;
    let mixed = "not JSON\n".to_owned() + &line(2, "order/17", "second");
    fs::write(
        &other,
        mixed + &line(2, "order/18", "of another") + line(4, "order/17", "last").trim(),
    )?;
    let (one, other) = (text(&one)?, text(&other)?);
    let (code, output, errors) =
        postrider(&["logs", "order", "17", "--file", one, "--file", other, "--json"]).await?;
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(messages(&output)?, ["first", "second", "third", "last"]);
    let (code, output, _) = postrider(&["logs", "order/18", "-f", one, "-f", other]).await?;
    let expected = "2026-01-31T12:00:02Z other INFO  payment#1      of another\n";
    assert_eq!((code, output.as_str()), (0, expected));
    let (code, _, errors) = postrider(&["logs", "order/19", "-f", one]).await?;
    assert_eq!((code, errors.as_str()), (0, "no line matches, of 2\n"));
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of letters")
}

#[test]
fn lines_of_containers_are_read_from_standard_input() -> Result<()> {
    let mut command = Command::new(binary()?);
    command.args(["logs", "order", "17"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("a pipe")?;
    input.write_all(b"postgres-1  | ready to accept connections\n")?;
    for (host, order) in [("host-1", "order/17"), ("host-2", "order/17"), ("host-1", "order/18")] {
        input.write_all(format!("{host}  | {}", line(1, order, host)).as_bytes())?;
    }
    drop(input);
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    let lines: Vec<&str> =
        output.lines().map(|line| line.split_once(' ').unwrap_or_default().1).collect();
    let expected = |host: &str| format!("{host} INFO  payment#1      {host}");
    assert_eq!(lines, [expected("host-1"), expected("host-2")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_lines_are_refused_with_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("log");
    fs::write(&file, "2026-01-31T12:00:00Z  INFO running\n")?;
    let (code, _, errors) = postrider(&["logs", "order/17", "--file", text(&file)?]).await?;
    assert_eq!(code, 1);
    assert!(errors.contains("--log-format json"), "{errors}");
    let (code, _, errors) = postrider(&["logs", "order", "--file", text(&file)?]).await?;
    assert!(code == 1 && errors.contains("order"), "{code} {errors}");
    Ok(())
}

/// A command that follows files; ended when dropped.
struct Following(Child, BufReader<std::process::ChildStdout>);

impl Following {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?).args(arguments).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self(child, output))
    }

    fn message(&mut self) -> Result<String> {
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(messages(&line)?.remove(0))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_is_followed_also_after_it_was_rotated() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("host.log");
    fs::write(&path, line(1, "order/17", "before"))?;
    let arguments = ["logs", "order/17", "--file", text(&path)?, "--follow", "--json"];
    let mut following = Following::start(&arguments)?;
    assert_eq!(following.message()?, "before");
    // In two parts: a line is printed when it is complete.
    let mut file = fs::File::options().append(true).open(&path)?;
    let (begin, end) = (line(2, "order/18", "other"), line(3, "order/17", "appended"));
    file.write_all(&begin.as_bytes()[..20])?;
    file.write_all(&begin.as_bytes()[20..])?;
    file.write_all(end.as_bytes())?;
    assert_eq!(following.message()?, "appended");
    fs::rename(&path, folder.path().join("host.log.1"))?;
    file.write_all(line(4, "order/17", "written late").as_bytes())?;
    fs::write(&path, line(5, "order/17", "rotated"))?;
    assert_eq!(following.message()?, "written late");
    assert_eq!(following.message()?, "rotated");
    // Truncated: it is shorter than before.
    fs::write(&path, line(6, "order/17", "cut"))?;
    assert_eq!(following.message()?, "cut");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_failing_order_are_found_in_the_log_of_a_host() -> Result<()> {
    let toml = format!("{AMPLE_STOCK}[stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\n");
    let env = TestEnv::shipped(&toml)?;
    let environment = [("POSTRIDER_LOG_FORMAT", "json"), ("RUST_LOG", "info")];
    let (host, client) = HostProcess::start_ready_with(&env, &environment).await?;
    let level = ["stages", "log-level", "payment", "debug", "--for", "1h", "--url", &client.url];
    let (code, output, errors) = postrider(&level).await?;
    ensure!(code == 0, "{errors}");
    assert!(output.starts_with("stage payment logs at level debug until "), "{output}");
    for (id, fails) in [("good", false), ("bad", true)] {
        let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1, "force_fail": fails });
        ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    client.wait_for_status("bad", "failed").await?;
    client.wait_for_status("good", "ready").await?;
    let log = env.folder.path().join("log");
    let log = text(&log)?;
    let printed = async |arguments: &[&str]| -> Result<String> {
        let arguments = [&["logs", "--file", log], arguments].concat();
        let (code, output, errors) = postrider(&arguments).await?;
        ensure!(code == 0, "{errors}");
        Ok(output)
    };
    let bad = printed(&["order/bad", "--level", "warn"]).await?;
    assert_eq!(bad.lines().count(), 2, "{bad}");
    assert!(bad.contains(" payment#2 ") && bad.contains("code=simulated-failure"), "{bad}");
    let good = printed(&["order/good", "--stage", "payment"]).await?;
    assert!(good.contains("delivery decided") && !good.contains("simulated"), "{good}");
    let guest = printed(&["order", "good", "--stage", "notification"]).await?;
    assert!(guest.contains(" notification#1> "), "{guest}");
    let trace = printed(&["order/bad", "--json", "--level", "warn"]).await?;
    let first: Value = serde_json::from_str(trace.lines().next().context("a line")?)?;
    let trace = printed(&["--trace", first["trace_id"].as_str().context("a trace")?]).await?;
    assert!(trace.contains("subject=order/bad") && !trace.contains("order/good"), "{trace}");
    // The level is shown, and ends with an operator.
    let stages = ["stages", "list", "--url", &client.url];
    assert!(postrider(&stages).await?.1.contains(" debug "));
    let level = ["stages", "log-level", "payment", "default", "--url", &client.url];
    assert_eq!(postrider(&level).await?.1, "stage payment logs at level default, on every host\n");
    eventually("the level to end", || async {
        Ok(client.stage("payment").await?["log_level"].is_null().then_some(()))
    })
    .await?;
    host.kill()
}
