//! Times and amounts as people write them: `2m`, `500ms`, `10%`, `3`.

use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A number of hosts, or a part of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Amount {
    /// So many hosts.
    Hosts(u64),
    /// So many percent of all, at least one host.
    Percent(f64),
}

impl Amount {
    /// Of so many hosts.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Hosts(number) => usize::try_from(number).unwrap_or(usize::MAX).min(hosts),
            Self::Percent(percent) => {
                let part = (hosts as f64 * percent / 100.0).ceil() as usize;
                part.clamp(hosts.min(1), hosts)
            }
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hosts(1) => f.write_str("1 host"),
            Self::Hosts(number) => write!(f, "{number} hosts"),
            Self::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

/// What a person wrote: a number, or a text.
#[derive(Clone, Debug)]
pub(super) struct Written(pub(super) String);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Written;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Written, E> {
                Ok(Written(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Written, E> {
                Ok(Written(number.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
                Ok(Written(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write one such as 500ms, 10s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return Err(wrong()),
    };
    // A year is more than any rollout takes.
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds <= 366.0 * 86_400.0 => Ok(time),
        _ => Err(format!("`{text}` is longer than a year")),
    }
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("`{text}` is not a part of the whole; write one from 0% to 100%")),
    }
}

pub(super) fn amount(text: &str) -> Result<Amount, String> {
    if text.ends_with('%') {
        return match percent(text)? {
            0.0 => Err("0% are no hosts".to_owned()),
            percent => Ok(Amount::Percent(percent)),
        };
    }
    match text.parse() {
        Ok(hosts) if hosts > 0 => Ok(Amount::Hosts(hosts)),
        _ => Err(format!("`{text}` is not a number of hosts; write one such as 3 or 10%")),
    }
}

macro_rules! as_number {
    ($name:ident, $of:ident, $from:ident) => {
        pub(super) mod $name {
            use std::time::Duration;

            use serde::{Deserialize, Deserializer, Serializer};

            pub(in super::super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u64(u64::try_from(time.$of()).unwrap_or(u64::MAX))
            }

            pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
                u64::deserialize(from).map(Duration::$from)
            }
        }
    };
}

as_number!(millis, as_millis, from_millis);
as_number!(micros, as_micros, from_micros);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_never_none_of_some_nor_more_than_all() {
        for (amount, hosts, of) in [
            (Amount::Hosts(1), 0, 0),
            (Amount::Hosts(3), 2, 2),
            (Amount::Percent(10.0), 3, 1),
            (Amount::Percent(10.0), 11, 2),
            (Amount::Percent(100.0), 1000, 1000),
            (Amount::Percent(0.1), 0, 0),
        ] {
            assert_eq!(amount.of(hosts), of, "{amount} of {hosts}");
        }
    }

    #[test]
    fn times_and_amounts_are_read_as_people_write_them_or_refused_with_an_example() {
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(amount("10%"), Ok(Amount::Percent(10.0)));
        assert_eq!(amount("3"), Ok(Amount::Hosts(3)));
        for wrong in ["", "2", "m", "2 weeks", "-1s", "1e9s", "9999d", "..s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "0%", "-3", "101%", "x%", "1.5"] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
    }
}
