//! Tables, times and states as text. Columns are as wide as their longest cell.
//!
//! On a terminal that is too narrow, the text of a row goes to a line of its own below it, then
//! columns that matter least are left out, then the widest cells are truncated: what a reader looks
//! for stays visible at 80 columns. Output to a file or pipe is never changed.

use console::{Alignment, Term, measure_text_width, pad_str, style, truncate_str};
use serde_json::Value;

const GAP: &str = "  ";
const INDENT: &str = "    ";
/// A cell is not truncated to less.
const CELL_MIN: usize = 8;

/// A column, and what becomes of it on a narrow terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    narrow: Narrow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrow {
    Keep,
    LeaveOut,
    Below,
}

/// A column that stays.
pub(crate) const fn column(heading: &'static str) -> Column {
    Column { heading, narrow: Narrow::Keep }
}

impl Column {
    /// It may be left out.
    pub(crate) const fn optional(self) -> Self {
        Self { narrow: Narrow::LeaveOut, ..self }
    }

    /// Text of any length, which may have a line of its own; the last column.
    pub(crate) const fn text(self) -> Self {
        Self { narrow: Narrow::Below, ..self }
    }
}

pub(crate) fn print(columns: &[Column], rows: &[Vec<String>]) {
    let width = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    for (at, line) in lines(columns, rows, width).into_iter().enumerate() {
        if at == 0 { outln!("{}", style(line).bold()) } else { outln!("{line}") }
    }
}

/// A cell; a missing one is empty.
fn cell(row: &[String], at: usize) -> &str {
    row.get(at).map_or("", String::as_str)
}

fn lines(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let mut below = None;
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().map(|row| measure_text_width(cell(row, at)));
            cells.chain([measure_text_width(column.heading)]).max().unwrap_or(0)
        })
        .collect();
    let whole = |shown: &[usize], widths: &[usize]| {
        let gaps = GAP.len() * shown.len().saturating_sub(1);
        shown.iter().map(|at| widths[*at]).sum::<usize>() + gaps
    };
    let max = width.unwrap_or(usize::MAX);
    if whole(&shown, &widths) > max {
        below = columns.iter().position(|column| column.narrow == Narrow::Below);
        shown.retain(|at| Some(*at) != below);
    }
    while whole(&shown, &widths) > max
        && let Some(last) = shown.iter().rposition(|at| columns[*at].narrow == Narrow::LeaveOut)
    {
        shown.remove(last);
    }
    while whole(&shown, &widths) > max
        && let Some(widest) = shown.iter().copied().max_by_key(|at| widths[*at])
        && widths[widest] > CELL_MIN
    {
        widths[widest] -= 1;
    }
    let line = |texts: &dyn Fn(usize) -> String| {
        let cells = shown
            .iter()
            .map(|at| pad_str(&texts(*at), widths[*at], Alignment::Left, Some("…")).into_owned());
        let line = cells.collect::<Vec<_>>().join(GAP);
        truncate_str(line.trim_end(), max, "…").into_owned()
    };
    let mut lines = vec![line(&|at| columns[at].heading.to_owned())];
    for row in rows {
        lines.push(line(&|at| cell(row, at).to_owned()));
        if let Some(text) = below.map(|at| cell(row, at)).filter(|text| !text.is_empty()) {
            lines.push(truncate_str(&format!("{INDENT}{text}"), max, "…").into_owned());
        }
    }
    lines
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
        "no plugin" | "paused" | "draining" | "drained" | "waiting" | "cancelled" | "stopped" => {
            style(state).yellow()
        }
        _ => style(state),
    };
    styled.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] =
        [column("ID"), column("STAGE"), column("REPLAYED").optional(), column("MESSAGE").text()];

    fn rows() -> Vec<Vec<String>> {
        let row = ["1", "payment-service", "0", "a long history of it"];
        vec![row.map(str::to_owned).to_vec()]
    }

    #[test]
    fn columns_fit_their_cells() {
        for width in [None, Some(80)] {
            assert_eq!(
                lines(&COLUMNS, &rows(), width),
                [
                    "ID  STAGE            REPLAYED  MESSAGE",
                    "1   payment-service  0         a long history of it",
                ]
            );
        }
    }

    #[test]
    fn a_narrow_terminal_shows_the_text_below_its_row() {
        assert_eq!(
            lines(&COLUMNS, &rows(), Some(30)),
            ["ID  STAGE            REPLAYED", "1   payment-service  0", "    a long history of it",]
        );
        assert_eq!(
            lines(&COLUMNS, &rows(), Some(20)),
            ["ID  STAGE", "1   payment-service", "    a long history …"]
        );
        assert_eq!(
            lines(&COLUMNS, &rows(), Some(14)),
            ["ID  STAGE", "1   payment-s…", "    a long hi…"]
        );
    }

    #[test]
    fn times_are_formatted_in_utc() {
        assert_eq!(time(&serde_json::json!(1_700_000_000_000_u64)), "2023-11-14 22:13:20");
        assert_eq!(time(&Value::Null), "-");
    }
}
