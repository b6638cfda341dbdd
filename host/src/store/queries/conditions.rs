//! Queries whose conditions are added one by one.
//!
//! A page of a large table is read by the index of one of its conditions, the lead. Postgres would not do so
//! for a plain equality: it may prefer to read the table by position until it has found enough rows, which
//! is all of it for a value that is rare and that its statistics do not know. So the lead is a range of one
//! value, and rows are sorted by it first: only its own index gives them in that sequence.

use std::fmt::Write as _;

use super::{Arg, Reader};

/// Adds conditions, numbering their placeholders.
pub(super) struct Conditions<'a> {
    pub(super) sql: String,
    pub(super) args: Vec<Arg<'a>>,
    /// The column of the lead, and the placeholder of its value.
    lead: Option<(&'static str, usize)>,
    /// Number of placeholders that arguments take beyond one each.
    beyond: usize,
}

impl<'a> Conditions<'a> {
    pub(super) fn after(sql: &str) -> Self {
        Self { sql: sql.to_owned(), args: Vec::new(), lead: None, beyond: 0 }
    }

    /// The same, of a query that reads from [`Reader::NAMED`].
    pub(super) fn after_named<R: Reader>(sql: &str, named: &'a [(i64, String)]) -> Self {
        let beyond = R::NAMED_WIDTH - 1;
        Self { args: vec![Arg::Named(named)], beyond, ..Self::after(sql) }
    }

    /// Adds an argument; the number of its placeholder.
    pub(super) fn bind(&mut self, arg: Arg<'a>) -> usize {
        self.args.push(arg);
        self.args.len() + self.beyond
    }

    /// `condition` up to its placeholder.
    pub(super) fn and(&mut self, condition: &str, arg: Option<Arg<'a>>) {
        if let Some(arg) = arg {
            let number = self.bind(arg);
            let _ = write!(self.sql, " AND {condition} ${number}");
        }
    }

    /// These columns have these values; the one named `lead` leads if it has one.
    pub(super) fn equal<const N: usize>(
        &mut self,
        lead: Option<&str>,
        columns: [(&'static str, Option<Arg<'a>>); N],
    ) {
        self.lead = None;
        for (column, arg) in columns {
            match arg {
                Some(arg) if lead == Some(column) => {
                    let number = self.bind(arg);
                    self.lead = Some((column, number));
                    let _ =
                        write!(self.sql, " AND {column} >= ${number} AND {column} <= ${number}");
                }
                arg => self.and(&format!("{column} ="), arg),
            }
        }
    }

    /// From now on, no column leads.
    pub(super) fn forget_lead(&mut self) {
        self.lead = None;
    }

    /// A bound on the position, by which rows are sorted after the lead.
    pub(super) fn bound(&mut self, column: &str, operator: &str, position: Option<i64>) {
        let Some(position) = position else { return };
        let Some((lead, value)) = self.lead else {
            return self.and(&format!("{column} {operator}"), Some(Arg::Int(position)));
        };
        let number = self.bind(Arg::Int(position));
        let _ = write!(self.sql, " AND ({lead}, {column}) {operator} (${value}, ${number})");
    }

    /// At most so many rows, sorted by the lead and then by the position.
    pub(super) fn page(&mut self, column: &str, direction: &str, limit: u32) {
        let lead = self.lead.map(|(lead, _)| format!("{lead} {direction}, ")).unwrap_or_default();
        let number = self.bind(Arg::Int(i64::from(limit)));
        let _ = write!(self.sql, " ORDER BY {lead}{column} {direction} LIMIT ${number}");
    }

    /// Reads one row more than the page holds, which tells whether there is another page.
    pub(super) fn newest_first(mut self, column: &str, limit: u32) -> (String, Vec<Arg<'a>>) {
        self.page(column, "DESC", limit + 1);
        (self.sql, self.args)
    }
}
