//! `config check` reports everything in one run, also as JSON; clients find the host of the
//! configuration, and say what is wrong with an address.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::support::process::{output, unused_port};

struct Said {
    code: i32,
    out: String,
    errors: String,
}

/// Runs a command in a folder of its own configuration.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Said> {
    let output = output(arguments, environment)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().context("a signal ended it")?;
    Ok(Said { code, out: text(&output.stdout), errors: text(&output.stderr) })
}

fn file(content: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(file.path(), content)?;
    Ok(file)
}

fn path(file: &tempfile::NamedTempFile) -> Result<&str> {
    file.path().to_str().context("a path of letters")
}

#[test]
fn config_check_reports_every_problem_as_text_and_as_json() -> Result<()> {
    let config = file(
        "[http]\nlisten = \"127.0.0.1\"\nlisen = \"x\"\n[stages.payment]\nplugin = \"nosuch.wasm\"\n\
         consumes = [\"order..created\"]\n[stages.payment.limits]\ndeadline_ms = 0\n",
    )?;
    let environment =
        [("POSTRIDER_STORE__URL", "mysql://u:secret@x"), ("POSTRIDER_HTTP_LISTEN", "x")];
    let said = run(&["--config", path(&config)?, "--json", "config", "check"], &environment)?;
    assert_eq!(said.code, 1);
    let report: Value = serde_json::from_str(&said.out)?;
    let keys: Vec<&str> = report["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem["key"].as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "http.lisen",
            "http.listen",
            "store.url",
            "stages.payment.limits.deadline_ms",
            "stages.payment.consumes",
            "stages.payment.plugin",
        ],
        "{report:#}"
    );
    assert!(
        report["warnings"][0].as_str().is_some_and(|one| one.contains("POSTRIDER_HTTP__LISTEN"))
    );
    let said = run(&["--config", path(&config)?, "config", "check"], &environment)?;
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(keys.iter().all(|key| said.errors.contains(&format!("  {key}: "))), "{}", said.errors);
    assert!(
        said.errors.contains("did you mean POSTRIDER_HTTP__LISTEN?")
            && said.errors.contains("(set by POSTRIDER_STORE__URL)")
            && !said.errors.contains("secret"),
        "{}",
        said.errors
    );
    Ok(())
}

#[test]
fn environment_of_any_form_takes_effect() -> Result<()> {
    let config = file("[stages.inventory.settings]\ndefault_stock = \"1\"\n")?;
    let environment = [
        ("POSTRIDER_NAMESPACE", "other"),
        ("POSTRIDER_STAGES__INVENTORY__SETTINGS__DEFAULT_STOCK", "5"),
        ("POSTRIDER_STAGES__PAYMENT__SETTINGS__merchantId", "012345"),
    ];
    let said = run(&["--config", path(&config)?, "--json", "config", "check"], &environment)?;
    let config: Value = serde_json::from_str(&said.out).with_context(|| said.errors.clone())?;
    assert_eq!((said.code, &config["namespace"]), (0, &json!("other")));
    assert_eq!(config["stages"]["inventory"]["settings"], json!({ "default_stock": "5" }));
    assert_eq!(config["stages"]["payment"]["settings"], json!({ "merchantId": "012345" }));
    assert_eq!(config["warnings"], json!([]));
    Ok(())
}

/// Answers every connection with this text.
fn other_server(answer: &'static str) -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if stream.read(&mut [0; 4_096]).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    Ok(port)
}

const HTML: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\n<p/>";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

#[test]
fn a_wrong_address_is_explained() -> Result<()> {
    for (answer, words) in [(HTML, "200 OK with text/html"), (NOT_FOUND, "404 Not Found")] {
        let port = other_server(answer)?;
        for command in [&["stages", "list"][..], &["plugin", "list"], &["events", "tail"]] {
            let url = format!("127.0.0.1:{port}");
            let said = run(&[command, &["--url", &url]].concat(), &[])?;
            assert!(
                said.code == 3
                    && said.errors.contains("is not a Postrider host")
                    && said.errors.contains(words),
                "{command:?}: {} {}",
                said.code,
                said.errors
            );
        }
    }
    let unused = unused_port()?;
    let said = run(&["stages", "list", "--url", &format!("localhost:{unused}")], &[])?;
    assert!(said.code == 3 && said.errors.contains("cannot reach a host at http://localhost:"));
    // The address of the configuration is the default.
    let config = file(&format!("http.listen = \"0.0.0.0:{unused}\"\n"))?;
    let said = run(&["--config", path(&config)?, "stages", "list"], &[])?;
    let expected = format!("cannot reach a host at http://127.0.0.1:{unused} ");
    assert!(said.code == 3 && said.errors.contains(&expected), "{}", said.errors);
    let said = run(&["stages", "list", "--url", "ftp://x"], &[])?;
    assert!(said.code == 2 && said.errors.contains("expected a URL such as"), "{}", said.errors);
    Ok(())
}
