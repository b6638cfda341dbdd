//! The costs of an order, as a table and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::BenchArgs;
use super::snapshot::{FIGURES, PerOrder, Window};
use super::steps::{COUNTED, NAMES};
use crate::table::{self, Column, column};
use postrider::internals::{TableWrites, WriteAheadLog};

/// What was measured.
pub(super) struct Measured {
    pub(super) run: Window,
    pub(super) rest: Window,
    /// By table, of all orders, those of the warm-up included.
    pub(super) tables: Vec<TableWrites>,
    /// The server's log before the host was started and after it was stopped.
    pub(super) log_total: Option<(WriteAheadLog, WriteAheadLog)>,
}

type Figures = BTreeMap<&'static str, f64>;

/// The costs of an order.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    orders: u64,
    /// By step and figure; `total` is the sum of all steps.
    steps: BTreeMap<&'static str, Figures>,
    process: Figures,
    /// Only with a Postgres store.
    postgres: Option<PostgresCosts>,
}

#[derive(Debug, Serialize)]
struct PostgresCosts {
    tables: BTreeMap<String, Figures>,
    total: Figures,
}

impl Report {
    pub(super) fn new(args: &BenchArgs, measured: Measured) -> Self {
        let Measured { run, rest, tables, log_total } = measured;
        let per_order = PerOrder { run: &run, rest: &rest, orders: args.orders };
        let all = (args.warm_up + args.orders) as f64;
        let postgres =
            log_total.map(|log| PostgresCosts::new(&tables, log, all, per_order.log_bytes()));
        Self {
            orders: args.orders,
            steps: steps(&per_order),
            process: process(&per_order),
            postgres,
        }
    }
}

/// The names of a step's figures.
fn names() -> impl Iterator<Item = &'static str> {
    ["allocations", "allocated_bytes"].into_iter().chain(COUNTED)
}

fn steps(per_order: &PerOrder<'_>) -> BTreeMap<&'static str, Figures> {
    let mut steps = BTreeMap::new();
    let mut total = Figures::new();
    for (slot, step) in NAMES.iter().copied().enumerate() {
        let figure = |at: usize| per_order.of(|snapshot| snapshot.steps[slot][at]);
        let figures: Figures = names().zip((0..FIGURES).map(figure)).collect();
        for (name, figure) in &figures {
            *total.entry(*name).or_default() += *figure;
        }
        steps.insert(step, figures);
    }
    steps.insert("total", total);
    steps
}

fn process(per_order: &PerOrder<'_>) -> Figures {
    let mut figures = Figures::from([
        ("cpu_us", per_order.of(|snapshot| snapshot.process.cpu_us)),
        ("context_switches", per_order.of(|snapshot| snapshot.process.context_switches)),
    ]);
    if per_order.run.to.process.file_bytes.is_some() {
        let bytes = per_order.of(|snapshot| snapshot.process.file_bytes.unwrap_or_default());
        figures.insert("file_bytes", bytes);
    }
    figures
}

impl PostgresCosts {
    fn new(
        tables: &[TableWrites],
        (before, after): (WriteAheadLog, WriteAheadLog),
        orders: f64,
        log_bytes: Option<f64>,
    ) -> Self {
        let used = tables.iter().filter(|table| table.inserted + table.updated + table.deleted > 0);
        let rows = used.clone().map(|table| (table.table.clone(), writes([table], orders)));
        let mut total = writes(used.clone(), orders);
        total.insert("wal_bytes", log_bytes.unwrap_or_default());
        let full_pages = after.full_pages.saturating_sub(before.full_pages);
        total.insert("wal_full_pages", full_pages as f64 / orders);
        if let Some((before, after)) = before.syncs.zip(after.syncs) {
            total.insert("wal_syncs", after.saturating_sub(before) as f64 / orders);
        }
        Self { tables: rows.collect(), total }
    }
}

/// The rows and index entries that an order writes to some tables.
fn writes<'a>(tables: impl IntoIterator<Item = &'a TableWrites>, orders: f64) -> Figures {
    let (mut inserted, mut updated, mut hot_updated, mut deleted, mut entries) = (0, 0, 0, 0, 0);
    for table in tables {
        inserted += table.inserted;
        updated += table.updated;
        hot_updated += table.hot_updated;
        deleted += table.deleted;
        // A partial index has entries for some rows only: this is the most that it can be.
        entries += (table.inserted + table.updated - table.hot_updated) * table.indexes;
    }
    let hot_percent = if updated == 0 { 0.0 } else { 100.0 * hot_updated as f64 / updated as f64 };
    Figures::from([
        ("inserted", inserted as f64 / orders),
        ("updated", updated as f64 / orders),
        ("hot_percent", hot_percent),
        ("deleted", deleted as f64 / orders),
        ("index_entries", entries as f64 / orders),
    ])
}

/// Prints the report.
pub(crate) fn print(report: &Report) {
    outln!("{} orders; each costs:\n", report.orders);
    let steps = NAMES[1..].iter().chain(&NAMES[..1]).chain(&["total"]).copied();
    let columns: Vec<Column> = ["per order"].into_iter().chain(steps.clone()).map(column).collect();
    let row = |name: &'static str| -> Vec<String> {
        let figures = steps.clone().map(|step| number(report.steps[step][name]));
        [name.replace('_', " ")].into_iter().chain(figures).collect()
    };
    table::print(&columns, &names().map(row).collect::<Vec<_>>());
    outln!();
    print_figures(&report.process);
    let Some(postgres) = &report.postgres else { return };
    outln!();
    let figures = ["inserted", "updated", "hot_percent", "deleted", "index_entries"];
    let columns = ["table", "inserted", "updated", "HOT %", "deleted", "index entries"].map(column);
    let total = [("total".to_owned(), &postgres.total)];
    let tables = postgres.tables.iter().map(|(table, writes)| (table.clone(), writes));
    let row = |(table, writes): (String, &Figures)| -> Vec<String> {
        let figures = figures.iter().map(|name| number(writes[name]));
        [table].into_iter().chain(figures).collect()
    };
    table::print(&columns, &tables.chain(total).map(row).collect::<Vec<_>>());
    outln!();
    let log = postgres.total.iter().filter(|(name, _)| !figures.contains(name));
    print_figures(&log.map(|(name, figure)| (*name, *figure)).collect());
}

fn print_figures(figures: &Figures) {
    for (name, figure) in figures {
        outln!("{:<20} {}", name.replace('_', " "), number(*figure));
    }
}

fn number(figure: f64) -> String {
    match figure {
        figure if figure < 0.005 => "-".to_owned(),
        figure if figure < 10.0 => format!("{figure:.2}"),
        figure if figure < 1_000.0 => format!("{figure:.1}"),
        figure => format!("{figure:.0}"),
    }
}
