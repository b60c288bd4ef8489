//! The names by which the engine knows hosts, directives and lanes, and how they are read back.
//!
//! All of them are below the chunk `@cbus`, which the wildcards of other users of the same engine do not match:
//!
//! ```text
//! @cbus/1/FLEET/up/HOST/EPOCH                                    a token: the host is there
//! @cbus/1/FLEET/offer/HOST/EPOCH/ID...                           a token: it resolves this directive for others
//! @cbus/1/FLEET/to/HOST/EPOCH/FROM/FROM_EPOCH/link               frames of a link itself
//! @cbus/1/FLEET/to/HOST/EPOCH/FROM/FROM_EPOCH/dir/ID...          frames about directives of one id
//! @cbus/1/FLEET/ask/ID...                                        queries of programs in other languages
//! ```
//!
//! A key for each sender, receiver and id is what lets a hub's access rules say who may ask what of whom.

use std::fmt::Write as _;
use std::sync::Arc;

use controllerbus_fleet::carrier::{Lane, Peer, Presence, Which};

/// What all names of this version begin with.
const ROOT: &str = "@cbus/1";

/// The names of one fleet, for one host of it.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// With a slash at its end.
    fleet: String,
    own: Peer,
}

impl Names {
    pub(crate) fn new(fleet: &str, own: Peer) -> Self {
        Self { fleet: format!("{}/", root_of(fleet)), own }
    }

    pub(crate) fn presence(&self, what: &Presence) -> String {
        match what {
            Presence::Up(peer) => format!("{}up/{}", self.fleet, of_peer(peer)),
            Presence::Offer(peer, id) => format!("{}offer/{}/{}", self.fleet, of_peer(peer), of_id(id)),
        }
    }

    pub(crate) fn which(&self, which: &Which) -> String {
        match which {
            Which::Up => format!("{}up/*/*", self.fleet),
            Which::Offer(id) => format!("{}offer/*/*/{}", self.fleet, of_id(id)),
        }
    }

    /// Everything that is sent to this host.
    pub(crate) fn inbox(&self) -> String {
        format!("{}to/{}/**", self.fleet, of_peer(&self.own))
    }

    /// What this host sends to another one.
    pub(crate) fn lane(&self, to: &Peer, lane: &Lane) -> String {
        let mut name = format!("{}to/{}/{}/", self.fleet, of_peer(to), of_peer(&self.own));
        match lane {
            Lane::Link => name.push_str("link"),
            Lane::Directive(id) => {
                let _ = write!(name, "dir/{}", of_id(id));
            }
        }
        name
    }

    /// What programs in other languages ask.
    pub(crate) fn ask(&self, id: &str) -> String {
        format!("{}ask/{}", self.fleet, of_id(id))
    }

    /// Reads the name of a token. None for one that this version does not know.
    pub(crate) fn read_presence(&self, name: &str) -> Option<Presence> {
        let (kind, rest) = name.strip_prefix(&*self.fleet)?.split_once('/')?;
        match kind {
            "up" => {
                let (peer, rest) = read_peer(rest)?;
                rest.is_empty().then_some(Presence::Up(peer))
            }
            "offer" => {
                let (peer, id) = read_peer(rest)?;
                Some(Presence::Offer(peer, read_id(id)?))
            }
            _ => None,
        }
    }

    /// Who has sent a frame to this host, and in which lane.
    pub(crate) fn read_frame(&self, name: &str) -> Option<(Peer, Lane)> {
        let rest = name.strip_prefix(&*self.fleet)?.strip_prefix("to/")?;
        let (to, rest) = read_peer(rest)?;
        if to != self.own {
            return None;
        }
        let (from, lane) = read_peer(rest)?;
        let lane = match lane.split_once('/') {
            None if lane == "link" => Lane::Link,
            Some(("dir", id)) => Lane::Directive(read_id(id)?),
            _ => return None,
        };
        Some((from, lane))
    }
}

/// What all names of a fleet begin with, without a slash at its end.
pub(crate) fn root_of(fleet: &str) -> String {
    format!("{ROOT}/{}", chunk(fleet))
}

fn of_peer(peer: &Peer) -> String {
    format!("{}/{:016x}", chunk(&peer.host), peer.epoch)
}

/// An id as chunks: `example/greet` is two.
pub(crate) fn of_id(id: &str) -> String {
    let chunks: Vec<_> = id.split('/').map(chunk).collect();
    chunks.join("/")
}

/// A text as one chunk: what has a meaning in the engine's names is written as `%` and two digits.
pub(crate) fn chunk(text: &str) -> String {
    if text.is_empty() {
        return "%".to_owned();
    }
    let mut chunk = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        let has_meaning = matches!(character, '/' | '#' | '?' | '$' | '*' | '%') || at == 0 && character == '@';
        if has_meaning {
            let _ = write!(chunk, "%{:02x}", u32::from(character));
        } else {
            chunk.push(character);
        }
    }
    chunk
}

fn read_chunk(chunk: &str) -> Option<String> {
    if chunk == "%" {
        return Some(String::new());
    }
    let mut text = String::with_capacity(chunk.len());
    let mut rest = chunk;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let (digits, after) = after.split_at_checked(2)?;
        text.push(char::from(u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?));
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

fn read_id(chunks: &str) -> Option<Arc<str>> {
    let chunks: Option<Vec<_>> = chunks.split('/').map(read_chunk).collect();
    Some(chunks?.join("/").into())
}

/// The host and its epoch, and what comes after them.
fn read_peer(name: &str) -> Option<(Peer, &str)> {
    let (host, rest) = name.split_once('/')?;
    let (epoch, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let epoch = if epoch.len() == 16 { u64::from_str_radix(epoch, 16).ok()? } else { return None };
    Some((Peer { host: read_chunk(host)?.into(), epoch }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 8] = ["example/greet", "a", "a//b", "@a/@b", "*/**", "50%/$x#?", "grüß/gott", ""];

    fn peer(host: &str, epoch: u64) -> Peer {
        Peer { host: host.into(), epoch }
    }

    #[test]
    fn what_is_named_is_read_back_whatever_its_characters() {
        let names = Names::new("my shop/*", peer("edge-7", 7));
        let there = Names::new("my shop/*", peer("@a/b%", u64::MAX));
        let of = peer("edge-7", 7);
        for id in IDS {
            let offer = Presence::Offer(peer("@a/b%", u64::MAX), id.into());
            assert_eq!(names.read_presence(&there.presence(&offer)), Some(offer), "{id}");
            let lane = Lane::Directive(id.into());
            assert_eq!(names.read_frame(&there.lane(&of, &lane)), Some((peer("@a/b%", u64::MAX), lane)), "{id}");
        }
        let up = Presence::Up(of.clone());
        assert_eq!(names.read_presence(&names.presence(&up)), Some(up));
        assert_eq!(names.read_frame(&there.lane(&of, &Lane::Link)), Some((peer("@a/b%", u64::MAX), Lane::Link)));
    }

    #[test]
    fn every_name_is_a_key_of_the_engine_and_is_matched_by_what_looks_for_it() {
        let names = Names::new("sh*p", peer("@edge/7", 7));
        let key =
            |text: String| zenoh::key_expr::KeyExpr::try_from(text.clone()).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(key(names.which(&Which::Up)).includes(&key(names.presence(&Presence::Up(peer("@edge/7", 7))))));
        for id in IDS {
            let offer = key(names.presence(&Presence::Offer(peer("*", 1), id.into())));
            assert!(key(names.which(&Which::Offer(id.into()))).includes(&offer), "{id}");
            for other in IDS.into_iter().filter(|other| *other != id) {
                assert!(!key(names.which(&Which::Offer(other.into()))).intersects(&offer), "{id} and {other}");
            }
            let to = peer("@edge/7", 7);
            let frame = key(Names::new("sh*p", peer("b", 2)).lane(&to, &Lane::Directive(id.into())));
            assert!(key(names.inbox()).includes(&frame), "{id}");
            key(names.ask(id));
        }
    }

    #[test]
    fn what_this_version_does_not_know_is_nothing() {
        let names = Names::new("shop", peer("edge-7", 7));
        for name in [
            "",
            "@cbus/1/shop",
            "@cbus/1/other/up/edge-7/0000000000000007",
            "@cbus/1/shop/up/edge-7",
            "@cbus/1/shop/up/edge-7/7",
            "@cbus/1/shop/up/edge-7/0000000000000007/more",
            "@cbus/1/shop/down/edge-7/0000000000000007",
            "@cbus/1/shop/up/%zz/0000000000000007",
            "@cbus/1/shop/up/%ff/0000000000000007",
            "@cbus/1/shop/up/%/0000000000000007/",
        ] {
            let read = names.read_presence(name);
            assert!(read.is_none() || name.ends_with("7/"), "{name}: {read:?}");
        }
        for name in [
            "@cbus/1/shop/to/edge-8/0000000000000007/a/0000000000000001/link",
            "@cbus/1/shop/to/edge-7/0000000000000007/a/0000000000000001/links",
            "@cbus/1/shop/to/edge-7/0000000000000007/a/0000000000000001",
        ] {
            assert_eq!(names.read_frame(name), None, "{name}");
        }
    }
}
