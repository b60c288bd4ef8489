//! The metrics of a fleet.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::new;
use crate::fleet::Counts;

/// What a host counts of its fleet.
pub struct Fleet {
    hosts: Gauge,
    links: Gauge,
    lost: Counter,
    resyncs: Counter,
    credit_waits: Counter,
    sent: Counter,
    received: Counter,
    asks: Gauge,
    asked: Gauge,
}

impl Fleet {
    pub fn new(to: &mut Registry) -> Self {
        Self {
            hosts: new(to, "cbus_fleet_hosts"),
            links: new(to, "cbus_fleet_links"),
            lost: new(to, "cbus_fleet_lost_links"),
            resyncs: new(to, "cbus_fleet_resyncs"),
            credit_waits: new(to, "cbus_fleet_credit_waits"),
            sent: new(to, "cbus_fleet_sent_bytes"),
            received: new(to, "cbus_fleet_received_bytes"),
            asks: new(to, "cbus_fleet_asks"),
            asked: new(to, "cbus_fleet_asked"),
        }
    }

    /// Takes in what the fleet says now, if there is one and it answered.
    pub fn look(&self, before: &mut Counts, now: Option<Counts>) {
        let shown = now.unwrap_or_default();
        let gauges = [
            (&self.hosts, shown.hosts),
            (&self.links, shown.links),
            (&self.asks, shown.asks),
            (&self.asked, shown.asked),
        ];
        for (gauge, value) in gauges {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let Some(now) = now else { return };
        let counters = [
            (&self.lost, before.lost, now.lost),
            (&self.resyncs, before.resyncs, now.resyncs),
            (&self.credit_waits, before.credit_waits, now.credit_waits),
            (&self.sent, before.sent_bytes, now.sent_bytes),
            (&self.received, before.received_bytes, now.received_bytes),
        ];
        for (counter, was, is) in counters {
            // A fleet that was joined anew counts from nothing.
            counter.inc_by(if is < was { is } else { is - was });
        }
        *before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_only_grow_also_where_a_fleet_is_joined_anew() {
        let fleet = Fleet::new(&mut Registry::default());
        let mut before = Counts::default();
        let counts = |lost, links| Some(Counts { lost, links, ..Counts::default() });
        fleet.look(&mut before, counts(3, 2));
        fleet.look(&mut before, counts(3, 1));
        assert_eq!((fleet.lost.get(), fleet.links.get()), (3, 1));
        fleet.look(&mut before, None);
        assert_eq!((fleet.lost.get(), fleet.links.get()), (3, 0), "it has left the fleet, or did not answer in time");
        fleet.look(&mut before, counts(1, 1));
        assert_eq!((fleet.lost.get(), fleet.links.get()), (4, 1));
    }
}
