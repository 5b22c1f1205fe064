//! The process log, on stderr.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;

/// Begins to log. Our own events follow the configured level; libraries are held to warnings,
/// because below that they print headers and certificates.
pub fn start(log: Log) {
    let filter = Targets::new()
        .with_target("doorward", LevelFilter::from_level(log.level))
        // It warns of what peers do, so anybody could fill the log.
        .with_target("h2", LevelFilter::ERROR)
        .with_default(LevelFilter::WARN.min(LevelFilter::from_level(log.level)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    // A second start in one process (tests) keeps the first.
    let _ = if log.json {
        registry.with(lines.json().with_filter(filter)).try_init().is_ok()
    } else {
        registry.with(lines.with_ansi(false).with_filter(filter)).try_init().is_ok()
    };
}
