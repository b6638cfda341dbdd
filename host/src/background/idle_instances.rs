//! Drops warm guest instances that have been idle for longer than their stage allows.
//!
//! It only saves memory: a message that finds no warm instance gets a fresh one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;

/// Time between two scans.
const INTERVAL: Duration = Duration::from_secs(1);

/// Scans the stages that run here.
pub struct IdleInstances {
    pipeline: Arc<Pipeline>,
}

impl IdleInstances {
    /// For the stages of a pipeline.
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        Self { pipeline }
    }

    /// Scans until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => self.tick(),
            }
        }
    }

    /// One scan.
    pub fn tick(&self) {
        for stage in self.pipeline.stages() {
            if let Some(running) = stage.running() {
                running.handler.drop_idle_instances();
            }
        }
    }
}
