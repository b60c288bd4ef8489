//! The codes of what is refused: one table. A number is never given to anything else, also when nothing is refused with it any more.
//!
//! The texts are in `codes.md` beside this file, a section for each code. `cbus explain` prints them, and
//! `docs/reference/errors.md` is made from them.

use std::fmt;
use std::str::FromStr;

use crate::config::nearest::nearest;

/// The code of a refusal, such as `CB0012`: for programs that act on it, and for people who look it up.
///
/// `hot_runtime::Error`, [`Error`](crate::Error) and `controllerbus_api::Error` have a `code()` each.
///
/// ```
/// use controllerbus::ConfigSet;
/// use controllerbus::error::Code;
///
/// let error = ConfigSet::from_json("{]").unwrap_err();
/// assert_eq!(error.code(), Some(Code::CONFIG_SYNTAX));
/// assert_eq!(Code::CONFIG_SYNTAX.to_string(), "CB0052");
/// assert_eq!("cb52".parse(), Ok(Code::CONFIG_SYNTAX));
/// assert!(Code::CONFIG_SYNTAX.text().contains("What to do"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

macro_rules! codes {
    ($($number:literal $name:ident $title:literal)*) => {
        impl Code {
            $(
                #[doc = concat!($title, ".")]
                pub const $name: Self = Self($number);
            )*
        }

        /// Each code, with its name here and what is refused.
        const TABLE: &[(Code, &str, &str)] = &[$((Code::$name, stringify!($name), $title)),*];
    };
}

codes! {
    1 IO "A file or a directory cannot be used"
    2 NO_CRATE "There is no crate at the path"
    3 METADATA "Cargo cannot read the crate"
    4 NOT_A_CONTROLLER "The crate is no controller crate"
    5 FEATURE "No crate of the plugin has the feature"
    6 PROFILE "A profile setting is not valid"
    7 BUILD "The source does not compile"
    8 BUILD_TIMED_OUT "The build took too long"
    9 CANCELLED "The build was cancelled"
    10 SETTINGS "The runtime's settings contradict each other"
    11 KEY "A key for signatures cannot be used"
    12 BOUNDARY "The plugin was built with another boundary"
    13 DAMAGED "The plugin file is damaged or incomplete"
    14 NOT_A_PLUGIN "The file is no plugin file"
    15 MANIFEST "The plugin's manifest is not valid"
    16 NO_CONTROLLERS "The plugin has no controllers"
    17 OTHER_TARGET "The plugin was built for another machine"
    18 NO_UNWINDING "A panic in the plugin would abort the host"
    19 RUNTIME_TOO_OLD "The plugin needs a newer runtime"
    20 TRUST_UNDECIDED "It is not set whose plugin files are loaded"
    21 NOT_SIGNED "The plugin file is not signed"
    22 OTHER_KEY "The plugin file is signed by a key that is not accepted"
    23 BAD_SIGNATURE "The signature does not belong to the plugin file"
    24 TOO_LARGE "The plugin file is too large"
    25 NOT_A_FILE "A file is expected, and something else is there"
    26 OPEN_TO_OTHERS "Others can change the plugin file"
    27 BEING_WRITTEN "The plugin file is still being written"
    28 CHANGED_SINCE "The plugin file was changed after it was checked"
    29 SAME_PLUGIN "Two files are the same plugin"
    30 OTHER_ID "The file is another plugin"
    31 OWN_MALLOC "The plugin replaces `malloc`"
    32 PRIVATE_FOLDER "The directory for private copies is not safe"
    33 PLUGINS_FOLDER "The plugins directory cannot be followed"
    34 LOAD "The plugin could not be loaded"
    35 NOT_READY "The new generation did not become ready"
    36 TAKEN_BACK "The build was rolled back before"
    37 NOTHING_TO_GO_BACK_TO "There is no earlier generation"
    38 UNKNOWN_PLUGIN "No plugin has this id"
    39 NOT_SERVED "No plugin has these functions"
    40 CLOSED "It is shutting down"
    41 WATCH "A file cannot be watched"
    42 NOT_WANTED "The check before the swap did not allow it"
    50 UNKNOWN_CONFIG_ID "No controller has this config id"
    51 NO_SUCH_VERSION "No controller has a version that the config accepts"
    52 CONFIG_SYNTAX "The config set cannot be read"
    53 CONFIG_MISFIT "The config does not fit its controller"
    54 CONFIG_INVALID "The config's own check refused it"
    55 ADDRESS_IN_USE "The address is in use"
    56 ADDRESS_TAKEN "Another controller listens at the address"
    57 STILL_OWNED "The running generation still owns what the new one needs"
    58 NOT_ALLOWED "The plugin's capabilities do not allow it"
    59 NOT_DECODED "A value does not fit the type that reads it"
    60 TIMED_OUT "Something did not happen in time"
    61 PANICKED "A controller panicked"
    62 CRASHED "A plugin's process ended"
    63 UNREACHABLE "Another host is out of reach"
    70 NO_DAEMON "No daemon answers"
    71 SEVERAL_DAEMONS "Several daemons are running"
    72 UNAUTHENTICATED "The daemon does not know the caller"
    73 TLS "The daemon and the client do not agree on TLS"
    74 NOT_PERMITTED "The daemon does not allow this"
    75 NOT_A_BUS_API "What answers is no bus API"
    76 WENT_AWAY "The daemon went away"
    77 UNPROTECTED "Anybody could use the daemon"
    78 CANNOT_LISTEN "The daemon cannot listen"
    79 NOT_DONE "The daemon could not do it"
    80 SOCKETS_FOLDER "The directory of the daemons' sockets is not safe"
    81 NOT_AN_ADDRESS "This is no address of a daemon"
}

const TEXTS: &str = include_str!("codes.md");

impl Code {
    /// All codes, in their order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        TABLE.iter().map(|(code, ..)| *code)
    }

    /// What is refused with it, in a few words.
    pub fn title(self) -> &'static str {
        self.row().map_or("", |(.., title)| title)
    }

    /// What it means, what causes it, and what to do about it, in Markdown.
    pub fn text(self) -> &'static str {
        let Some((_, after)) = TEXTS.split_once(&format!("\n## {self}\n")) else { return "" };
        after.split("\n## ").next().unwrap_or_default().trim()
    }

    /// The code that is written like a text, or whose name in this table is closest to it.
    pub fn nearest(text: &str) -> Option<Self> {
        let text = text.trim().to_uppercase();
        let codes: Vec<String> = Self::all().map(|code| code.to_string()).collect();
        let is_number = text.chars().any(|c| c.is_ascii_digit());
        let known = TABLE.iter().zip(&codes).map(|((_, name, _), code)| if is_number { code.as_str() } else { name });
        let found = nearest(&text, known)?.to_owned();
        TABLE
            .iter()
            .zip(&codes)
            .find(|((_, name, _), code)| *name == found || **code == found)
            .map(|((code, ..), _)| *code)
    }

    fn row(self) -> Option<&'static (Self, &'static str, &'static str)> {
        TABLE.iter().find(|(code, ..)| *code == self)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CB{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl crate::Schema for Code {
    const NODE: &'static crate::config::schema::Node = <str as crate::Schema>::NODE;
}

/// There is no such code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoSuchCode {
    /// What was taken for one.
    pub text: String,
}

impl fmt::Display for NoSuchCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no code `{}`", self.text)
    }
}

impl std::error::Error for NoSuchCode {}

/// As it is written, or with fewer zeros, or as the number alone.
impl FromStr for Code {
    type Err = NoSuchCode;

    fn from_str(text: &str) -> Result<Self, NoSuchCode> {
        let digits = text.trim();
        let digits =
            if digits.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("cb")) { &digits[2..] } else { digits };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let code = digits.parse().ok().filter(|_| is_number).map(Self);
        code.filter(|code| code.row().is_some()).ok_or_else(|| NoSuchCode { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_twice_and_each_code_has_a_text_of_its_own() {
        let numbers: BTreeSet<u16> = Code::all().map(|code| code.0).collect();
        let titles: BTreeSet<&str> = Code::all().map(Code::title).collect();
        assert_eq!((numbers.len(), titles.len()), (TABLE.len(), TABLE.len()));
        assert!(TABLE.is_sorted_by_key(|(code, ..)| *code));
        for code in Code::all() {
            let text = code.text();
            let parts = ["**Example.**", "**What to do.**"].map(|part| text.find(part));
            assert!(
                matches!(parts, [Some(example), Some(remedy)] if 40 < example && example < remedy),
                "{code}: {text}"
            );
        }
        let sections = TEXTS.lines().filter_map(|line| line.strip_prefix("## "));
        let known: Vec<String> = Code::all().map(|code| code.to_string()).collect();
        assert!(
            sections.eq(known.iter().map(String::as_str)),
            "the texts stand in the order of the table, and no others"
        );
    }

    #[test]
    fn a_code_is_read_however_it_is_typed_and_another_word_leads_to_the_nearest() {
        for text in ["CB0012", "cb0012", "CB12", " 12 ", "0012"] {
            assert_eq!(text.parse(), Ok(Code::BOUNDARY), "{text}");
        }
        for text in ["CB9999", "CB", "", "+12", "CB-12", "twelve", "CBé"] {
            assert_eq!(text.parse::<Code>().unwrap_err().to_string(), format!("there is no code `{text}`"));
        }
        assert_eq!(Code::nearest("CB0112"), Some(Code::BOUNDARY));
        assert_eq!(Code::nearest("boundry"), Some(Code::BOUNDARY));
        assert_eq!(Code::nearest("something else"), None);
    }
}
