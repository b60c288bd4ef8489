//! What a host knows of its fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use controllerbus_fleet::FleetOptions;
use controllerbus_fleet::memory::Network;
use controllerbus_fleet::status::{AskCounts, HostStatus, Hosts, LinkState, Offers};

use crate::kit::{Host, Requester, after, asks, lamp, until};

async fn hosts(host: &Host) -> BTreeMap<String, HostStatus> {
    let all = host.bus.resolve_all(Hosts {}).await.expect("it is answered");
    all.iter().map(|status| (status.host.clone(), (**status).clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn the_hosts_are_shown_with_their_links_and_what_is_asked() {
    let network = Network::new(1);
    let (one, _) = Host::with_lamps(&network, "one").await;
    let labels = BTreeMap::from([("role".to_owned(), "core".to_owned())]);
    let asker = Host::join(&network, "asker", asks().labels(labels.clone()).version("1.2.3")).await;
    let _other = Host::join(&network, "other", FleetOptions::new("shop")).await;
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    after(Duration::from_secs(2)).await;
    let seen = hosts(&one).await;
    assert_eq!(seen.len(), 3);
    assert!(seen["one"].own && !seen["asker"].own);
    let asker_seen = &seen["asker"];
    assert_eq!((asker_seen.link, asker_seen.asked, asker_seen.asks), (LinkState::Up, 1, 0));
    assert_eq!((&asker_seen.labels, asker_seen.version.as_str()), (&labels, "1.2.3"));
    assert!(asker_seen.round_trip_us.is_some() && asker_seen.clock_offset_ms.is_some());
    assert_eq!(seen["other"].link, LinkState::NotNeeded);
    let seen = hosts(&asker).await;
    assert_eq!((seen["one"].asks, seen["one"].asked), (1, 0));
    network.part("one", "asker");
    after(Duration::from_secs(5)).await;
    assert_eq!(hosts(&asker).await["one"].link, LinkState::Lost);
}

#[tokio::test(start_paused = true)]
async fn offers_are_shown_as_they_come_and_go_and_counts_are_fresh_each_time() {
    let network = Network::new(1);
    let asker = Host::join(&network, "asker", asks()).await;
    let mut offers = asker.bus.request(Offers { id: Some("house/lamp".to_owned()) }).expect("a request");
    assert!(offers.value_unless_idle().await.expect("it is answered").is_none());
    let (one, _) = Host::with_lamps(&network, "one").await;
    let offer = offers.value().await.expect("it comes");
    assert_eq!((offer.host.as_str(), offer.id.as_str()), ("one", "house/lamp"));
    let mut hall = Requester::of(&asker.bus, lamp("hall"));
    hall.stands(&["hall by one"]).await;
    let counts = asker.bus.resolve(AskCounts {}).await.expect("it is answered");
    assert_eq!((counts.links, counts.hosts, counts.asks, counts.lost), (1, 1, 1, 0));
    assert!(counts.sent_frames > 0 && counts.received_bytes > 0);
    one.crash(&network);
    hall.stands(&[]).await;
    until("it is gone", || asker.fleet.counts().lost == 1).await;
    let counts = asker.bus.resolve(AskCounts {}).await.expect("it is answered");
    assert_eq!((counts.links, counts.asks, counts.lost), (0, 0, 1));
    while offers.standing().next().is_some() {
        offers.next().await;
    }
}
