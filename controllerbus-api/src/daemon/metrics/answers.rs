//! How long resolvers took to answer: a histogram of what the bus has counted, for each directive id.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use controllerbus::bus::ResolverCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::table::help_of;

const NAME: &str = "cbus_resolver_answer_seconds";

/// How many runs took how long: one number for each of [`ResolverCounts::WAITS`], and one more.
type Waits = [u64; ResolverCounts::WAITS.len() + 1];

/// The sum of their times in seconds, and how many there were, by directive id.
#[derive(Debug, Default)]
pub struct Answers(Mutex<BTreeMap<String, (f64, Waits)>>);

impl Answers {
    pub fn add(&self, directive: String, seconds: f64, waits: Waits) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, own) = all.entry(directive).or_default();
        *sum += seconds;
        own.iter_mut().zip(waits).for_each(|(own, more)| *own += more);
    }
}

impl Collector for Answers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = format!("{}.", help_of(NAME));
        let mut metric = encoder.encode_descriptor(NAME, &help, None, MetricType::Histogram)?;
        for (directive, (sum, waits)) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let bounds = ResolverCounts::WAITS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(waits.iter().copied()).collect();
            let labels = [("directive", directive.as_str())];
            let mut own = metric.encode_family(&labels)?;
            own.encode_histogram::<NoLabelSet>(*sum, waits.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }
}
