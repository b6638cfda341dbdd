//! Which lines are printed.
//!
//! A subject has the lines that name it, and those of its traces that name no subject. A trace is known
//! once a line names both: lines that came before are held back until then. Bound: [`HELD_MAX`] lines.

use std::collections::{HashSet, VecDeque};

use postrider::LogLevel;

use super::line::Line;

/// Lines that are held back: those of the last seconds of a busy host.
const HELD_MAX: usize = 10_000;

/// What all printed lines have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) subject: Option<String>,
    pub(super) trace: Option<String>,
    pub(super) event: Option<String>,
    pub(super) stage: Option<String>,
    pub(super) level: Option<LogLevel>,
    pub(super) since_ms: Option<u64>,
}

impl Filter {
    pub(super) fn is_unfiltered(&self) -> bool {
        self.subject.is_none() && self.trace.is_none()
    }

    /// Whether it passes everything but the subject.
    fn passes(&self, line: &Line) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| line.field(name) == Some(wanted))
        };
        let is_severe = |level: LogLevel| line.level().is_some_and(|found| found <= level);
        is("trace_id", &self.trace)
            && is("event", &self.event)
            && is("stage", &self.stage)
            && self.level.is_none_or(is_severe)
            && self.since_ms.is_none_or(|since_ms| line.at_ms >= since_ms)
    }
}

/// Selects from a stream of lines, in their order.
#[derive(Debug)]
pub(super) struct Selection {
    filter: Filter,
    /// The traces of the subject.
    traces: HashSet<String>,
    /// Lines that name no subject, and whose trace may be found to be the subject's.
    held: VecDeque<Line>,
}

impl Selection {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, traces: HashSet::new(), held: VecDeque::new() }
    }

    /// Reads a line. Returns the lines that are known to be wanted now.
    pub(super) fn take(&mut self, line: Line) -> Vec<Line> {
        let Some(subject) = &self.filter.subject else {
            return if self.filter.passes(&line) { vec![line] } else { Vec::new() };
        };
        let mut wanted = Vec::new();
        match (line.field("subject"), line.field("trace_id")) {
            (Some(named), trace) if named == subject => {
                if let Some(trace) = trace
                    && self.traces.insert(trace.to_owned())
                {
                    let of_trace = |held: &Line| held.field("trace_id") == Some(trace);
                    let (found, held): (Vec<_>, Vec<_>) = self.held.drain(..).partition(of_trace);
                    (wanted, self.held) = (found, held.into());
                }
                wanted.push(line);
            }
            (None, Some(trace)) if self.traces.contains(trace) => wanted.push(line),
            (None, Some(_)) => {
                if self.held.len() == HELD_MAX {
                    self.held.pop_front();
                }
                self.held.push_back(line);
            }
            _ => {}
        }
        wanted.retain(|line| self.filter.passes(line));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, fields: &str) -> Line {
        let json = format!(
            r#"{{"timestamp":"2026-01-31T12:00:{second:02}Z","level":"INFO","message":"{second}",{fields}}}"#
        );
        Line::parse(None, &json).unwrap()
    }

    fn selected(filter: Filter, lines: Vec<Line>) -> Vec<String> {
        let mut selection = Selection::new(filter);
        let selected = lines.into_iter().flat_map(|line| selection.take(line));
        selected.map(|line| line.field("message").unwrap().to_owned()).collect()
    }

    fn about(subject: &str) -> Filter {
        Filter { subject: Some(subject.to_owned()), ..Filter::default() }
    }

    #[test]
    fn a_subject_has_its_lines_and_those_of_its_traces_without_a_subject() {
        let lines = vec![
            line(1, r#""trace_id":"a""#),
            line(2, r#""trace_id":"b""#),
            line(3, r#""trace_id":"a","subject":"order/17""#),
            line(4, r#""trace_id":"a","subject":"order/18""#),
            line(5, r#""trace_id":"b","subject":"order/18""#),
            line(6, r#""trace_id":"a""#),
            line(7, r#""stage":"payment""#),
            line(8, r#""subject":"order/17""#),
        ];
        assert_eq!(selected(about("order/17"), lines), ["1", "3", "6", "8"]);
    }

    #[test]
    fn lines_pass_every_filter() {
        let lines = || {
            vec![
                line(1, r#""subject":"order/17","stage":"payment","event":"e1""#),
                line(2, r#""subject":"order/17","stage":"payment","event":"e2""#),
                line(3, r#""subject":"order/17","stage":"shipping","event":"e2""#),
                line(4, r#""subject":"order/18","stage":"payment","event":"e2","trace_id":"t""#),
            ]
        };
        let text = |text: &str| Some(text.to_owned());
        let filter = Filter { stage: text("payment"), event: text("e2"), ..about("order/17") };
        assert_eq!(selected(filter, lines()), ["2"]);
        let trace = Filter { trace: text("t"), ..Filter::default() };
        assert_eq!(selected(trace, lines()), ["4"]);
        let since = line(3, r#""a":1"#).at_ms;
        let late = Filter { since_ms: Some(since), ..Filter::default() };
        assert_eq!(selected(late, lines()), ["3", "4"]);
        let severe = Filter { level: Some(LogLevel::Warn), ..Filter::default() };
        assert_eq!(selected(severe, lines()), [""; 0]);
        let detailed = Filter { level: Some(LogLevel::Info), ..Filter::default() };
        assert_eq!(selected(detailed, lines()).len(), 4);
    }

    #[test]
    fn few_lines_are_held_back() {
        let mut selection = Selection::new(about("order/17"));
        for _ in 0..HELD_MAX {
            assert_eq!(selection.take(line(1, r#""trace_id":"a""#)), []);
        }
        assert_eq!(selection.take(line(2, r#""trace_id":"b""#)), []);
        assert_eq!(selection.held.len(), HELD_MAX);
        let named = line(3, r#""trace_id":"b","subject":"order/17""#);
        assert_eq!(selection.take(named).len(), 2);
    }
}
