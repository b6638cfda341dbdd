//! Metrics of the process: its build, its runtime, and what it uses of the machine, under the names that
//! Prometheus recommends for all programs
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::fmt;

use prometheus_client::registry::Unit;

use super::{Metric, Table};

/// Writes those metrics.
pub(super) fn encode(table: &mut Table<'_, '_>) -> fmt::Result {
    let metric = Metric("postrider_build_info", "The version of the host", None);
    table.info(metric, [vec![("version", env!("CARGO_PKG_VERSION"))]])?;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let runtime = runtime.metrics();
        let metric = Metric("postrider_runtime_tasks", "Tasks of the asynchronous runtime", None);
        table.gauges(metric, [(vec![], runtime.num_alive_tasks() as f64)])?;
        let metric = Metric(
            "postrider_runtime_queued_tasks",
            "Tasks that wait for a thread of the runtime, apart from those that a thread woke itself",
            None,
        );
        table.gauges(metric, [(vec![], runtime.global_queue_depth() as f64)])?;
        let metric = Metric("postrider_runtime_threads", "Threads that run tasks", None);
        table.gauges(metric, [(vec![], runtime.num_workers() as f64)])?;
        let metric = Metric(
            "postrider_runtime_busy",
            "Time for which those threads ran tasks, summed",
            Some(&Unit::Seconds),
        );
        let busy: f64 = (0..runtime.num_workers())
            .map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64())
            .sum();
        table.counters(metric, [(vec![], busy)])?;
    }
    #[cfg(target_os = "linux")]
    if let Ok(usage) = linux::Usage::read() {
        usage.encode(table)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;

    use procfs::process::{LimitValue, Process};
    use procfs::{ProcResult, WithCurrentSystemInfo as _};
    use prometheus_client::registry::Unit;

    use crate::app::metrics::{Metric, Table};

    /// What the process uses.
    pub(super) struct Usage {
        cpu_s: f64,
        memory_bytes: u64,
        files: usize,
        files_max: Option<u64>,
        threads: i64,
        started_s: f64,
    }

    impl Usage {
        pub(super) fn read() -> ProcResult<Self> {
            let process = Process::myself()?;
            let stat = process.stat()?;
            let files_max = match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(most) => Some(most),
                LimitValue::Unlimited => None,
            };
            Ok(Self {
                cpu_s: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
                memory_bytes: stat.rss_bytes().get(),
                files: process.fd_count()?,
                files_max,
                threads: stat.num_threads,
                started_s: procfs::boot_time_secs()? as f64
                    + stat.starttime as f64 / procfs::ticks_per_second() as f64,
            })
        }

        pub(super) fn encode(&self, table: &mut Table<'_, '_>) -> fmt::Result {
            let metric = Metric(
                "process_cpu",
                "Processor time of the process, of users and of the system",
                Some(&Unit::Seconds),
            );
            table.counters(metric, [(vec![], self.cpu_s)])?;
            let metric = Metric(
                "process_resident_memory",
                "Memory of the process that is in RAM",
                Some(&Unit::Bytes),
            );
            table.gauges(metric, [(vec![], self.memory_bytes as f64)])?;
            let metric = Metric("process_open_fds", "Files and connections that are open", None);
            table.gauges(metric, [(vec![], self.files as f64)])?;
            let metric = Metric("process_max_fds", "Most files that may be open", None);
            let most = self.files_max.map(|most| (vec![], most as f64));
            table.gauges(metric, most)?;
            let metric = Metric("process_threads", "Threads of the process", None);
            table.gauges(metric, [(vec![], self.threads as f64)])?;
            let metric = Metric(
                "process_start_time",
                "When the process started, since 1970-01-01 UTC",
                Some(&Unit::Seconds),
            );
            table.gauges(metric, [(vec![], self.started_s)])
        }
    }
}
