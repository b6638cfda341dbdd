//! Tables, times and states as text. Columns are as wide as their longest cell. Lines are truncated
//! to the width of the terminal; output to a file or pipe is never truncated.

use console::{Alignment, Term, measure_text_width, pad_str, style, truncate_str};
use serde_json::Value;

const GAP: &str = "  ";

pub(crate) fn print(headings: &[&str], rows: &[Vec<String>]) {
    let width = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    for (at, line) in lines(headings, rows, width).into_iter().enumerate() {
        if at == 0 { println!("{}", style(line).bold()) } else { println!("{line}") }
    }
}

fn lines(headings: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&headings).chain(rows);
    let widths: Vec<usize> = (0..headings.len())
        .map(|at| {
            all()
                .filter_map(|row| row.get(at))
                .map(|cell| measure_text_width(cell))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None).into_owned());
        let line = cells.collect::<Vec<_>>().join(GAP);
        let line = line.trim_end();
        width.map_or_else(|| line.to_owned(), |width| truncate_str(line, width, "…").into_owned())
    };
    all().map(line).collect()
}

/// Formats milliseconds since 1970-01-01 UTC.
pub(crate) fn time(value: &Value) -> String {
    let stamp = value.as_i64().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    stamp.map_or_else(|| "-".to_owned(), |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A state in its colour.
pub(crate) fn state(state: &str) -> String {
    let styled = match state {
        "open" | "failed" | "dead" | "dead_lettered" => style(state).red(),
        "done" | "replayed" | "running" | "closed" | "consuming" => style(state).green(),
        "paused" | "draining" | "drained" | "waiting" | "cancelled" | "stopped" => {
            style(state).yellow()
        }
        _ => style(state),
    };
    styled.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_cells_and_lines_are_truncated_to_the_terminal() {
        let rows = vec![vec!["1".to_owned(), "payment".to_owned(), "a long history".to_owned()]];
        let headings = ["ID", "STAGE", "CAUSE"];
        assert_eq!(
            lines(&headings, &rows, None),
            ["ID  STAGE    CAUSE", "1   payment  a long history"]
        );
        assert_eq!(lines(&headings, &rows, Some(16))[1], "1   payment  a …");
    }

    #[test]
    fn times_are_formatted_in_utc() {
        assert_eq!(time(&serde_json::json!(1_700_000_000_000_u64)), "2023-11-14 22:13:20");
        assert_eq!(time(&Value::Null), "-");
    }
}
