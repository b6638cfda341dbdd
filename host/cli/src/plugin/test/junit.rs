//! Results in the XML format of `JUnit`, which CI systems read.

use std::fmt::Write as _;

use super::{CaseResult, CaseRun};

/// The report of a project's fixtures.
pub(super) fn report(project: &str, runs: &[CaseRun]) -> String {
    let failed = runs.iter().filter(|run| run.result.is_failure()).count();
    let seconds: f64 = runs.iter().map(|run| run.took.as_secs_f64()).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let suite = escaped(project);
    let _ = writeln!(
        xml,
        "<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failed}\" time=\"{seconds:.3}\">",
        runs.len()
    );
    for CaseRun { file, result, took } in runs {
        let name = escaped(&file.file_stem().unwrap_or_default().to_string_lossy());
        let _ = write!(
            xml,
            "  <testcase classname=\"{suite}\" name=\"{name}\" time=\"{:.3}\"",
            took.as_secs_f64()
        );
        if result.is_failure() {
            let _ = writeln!(
                xml,
                ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>",
                result.name(),
                escaped(text(result))
            );
        } else {
            xml.push_str("/>\n");
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn text(result: &CaseResult) -> &str {
    result.difference().or_else(|| result.reason()).unwrap_or_default()
}

/// Without the characters that XML reserves or forbids.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(one),
            one if one.is_control() => escaped.push('\u{fffd}'),
            one => escaped.push(one),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_become_test_cases() {
        let run = |file: &str, result| CaseRun {
            file: file.into(),
            result,
            took: Duration::from_millis(5),
        };
        let runs = [
            run("fixtures/accepted.json", CaseResult::Passed),
            run("fixtures/refused.json", CaseResult::Different("-a\n+<b> & \"c\"\u{1}".into())),
        ];
        assert_eq!(
            report("fraud", &runs),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"fraud\" tests=\"2\" failures=\"1\" time=\"0.010\">\n  \
             <testcase classname=\"fraud\" name=\"accepted\" time=\"0.005\"/>\n  \
             <testcase classname=\"fraud\" name=\"refused\" time=\"0.005\">\n    \
             <failure message=\"different\">-a\n+&lt;b&gt; &amp; &quot;c&quot;\u{fffd}</failure>\n  \
             </testcase>\n</testsuite>\n"
        );
    }
}
