//! What crosses the wire. Directives, values and facts are in the boundary's own encoding, and are passed on unchanged.

use serde::{Deserialize, Serialize, Serializer};

use crate::Error;

/// How many events of a directive the other end is sent before it has reported some of them as read.
pub(super) const EVENT_CREDIT: u32 = 32;

/// A message between two [`Endpoint`](super::Endpoint)s.
///
/// Every ask has a number, which the end that asks chooses and never uses again. Values are numbered by the end that answers.
/// The enum is exhaustive, because an end has to know each message; its encoding is part of its carrier's protocol version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message<'a> {
    /// Adds a reference to a directive of the bus. Answered by events, of which [`Message::Credit`] allows more.
    Ask {
        /// The ask's number.
        ask: u64,
        /// The directive's id.
        directive: &'a str,
        /// The directive.
        #[serde(serialize_with = "as_bytes")]
        bytes: &'a [u8],
        /// Its [`Facts`](crate::directive::Facts), encoded.
        #[serde(serialize_with = "as_bytes")]
        facts: &'a [u8],
    },
    /// An earlier [`Message::Ask`] again, by the number that it has had: the other end may have lost it. What stands is told anew.
    AskAgain {
        /// The ask's number.
        ask: u64,
        /// The directive's id.
        directive: &'a str,
        /// The directive.
        #[serde(serialize_with = "as_bytes")]
        bytes: &'a [u8],
        /// Its [`Facts`](crate::directive::Facts), encoded.
        #[serde(serialize_with = "as_bytes")]
        facts: &'a [u8],
    },
    /// The asks of this end follow, each as [`Message::AskAgain`].
    AsksAnew,
    /// Those were all: what the other end knows of beside them has been released.
    AsksTold,
    /// What stands for an ask follows, as for a new one: values, failures, and whether it is idle.
    Anew {
        /// The ask's number.
        ask: u64,
    },
    /// That was all: values that were not told again are gone.
    Told {
        /// The ask's number.
        ask: u64,
    },
    /// Adds another reference to the directive of an earlier ask.
    Refer {
        /// The number of the new ask.
        ask: u64,
        /// The number of the earlier one, which may be released next.
        to: u64,
        /// Whether the reference keeps the directive standing.
        strong: bool,
    },
    /// Adds a weak reference to the directive that the other end has asked one of this end's controllers to resolve. Answered
    /// as [`Message::Ask`] is.
    ReferBack {
        /// The ask's number.
        ask: u64,
        /// The other end's ask.
        to: u64,
    },
    /// Asks who answers the directive of an earlier ask. Answered by [`Message::Answered`], with a list of
    /// [`ResolverSnapshot`](crate::bus::ResolverSnapshot)s.
    Resolvers {
        /// The ask's number.
        ask: u64,
        /// The number of the earlier one.
        of: u64,
    },
    /// Ends the directive that the other end has asked one of this end's controllers to resolve. Answered by
    /// [`Message::Answered`], with whether it has ended by this.
    Close {
        /// The ask's number.
        ask: u64,
        /// The other end's ask.
        to: u64,
        /// Whether it ends even if there is a strong reference to it.
        even_if_referred: bool,
    },
    /// Adds one of this end's controllers to the other end's bus, until it is released. Answered by [`Message::Answered`] with
    /// its id there, and, when its execution has ended for good, by [`Message::Done`] or [`Message::Failed`].
    AddController {
        /// The ask's number.
        ask: u64,
        /// A [`RemoteController`](super::RemoteController), encoded.
        #[serde(serialize_with = "as_bytes")]
        about: &'a [u8],
    },
    /// Removes the controller that was added. Answered by [`Message::End`] once it has ended, or its limits have passed.
    Remove {
        /// The number of the ask that has added it.
        ask: u64,
    },
    /// Adds factories of this end to the other end's bus, until they are released. Answered by [`Message::Answered`].
    AddFactories {
        /// The ask's number.
        ask: u64,
        /// A list of [`RemoteFactory`](super::RemoteFactory)s, encoded.
        #[serde(serialize_with = "as_bytes")]
        about: &'a [u8],
    },
    /// The answer to an ask that has one.
    Answered {
        /// The ask's number.
        ask: u64,
        /// What it says, encoded.
        #[serde(serialize_with = "as_bytes")]
        bytes: &'a [u8],
    },
    /// Events were read.
    Credit {
        /// The ask's number.
        ask: u64,
        /// How many since the last report.
        events: u32,
    },
    /// Asks one controller to resolve a directive that stands at the end that asks. Answered by values, then by
    /// [`Message::Done`] or [`Message::Failed`].
    Resolve {
        /// The ask's number.
        ask: u64,
        /// The controller, by the number that both ends have for it.
        controller: u64,
        /// The directive's id.
        directive: &'a str,
        /// The directive.
        #[serde(serialize_with = "as_bytes")]
        bytes: &'a [u8],
        /// Whether each value is answered by [`Message::Accepted`], because the directive may reject some.
        answered: bool,
        /// Whether the directive is [local](crate::Directive::LOCAL) to the other end's library. Its values stay there, and
        /// what crosses says which they are.
        local: bool,
    },
    /// Whether a value was accepted.
    Accepted {
        /// The ask's number.
        ask: u64,
        /// The value.
        value: u64,
        /// Whether it stands.
        yes: bool,
    },
    /// Releases an ask: the reference, or the resolver and its values, are dropped. Nothing answers it.
    Release {
        /// The ask's number.
        ask: u64,
    },
    /// A value came.
    Added {
        /// The ask's number.
        ask: u64,
        /// The value's number.
        value: u64,
        /// The value that it replaces, which is removed in any case.
        replaces: Option<u64>,
        /// The value.
        #[serde(serialize_with = "as_bytes")]
        bytes: &'a [u8],
    },
    /// A value is gone.
    Removed {
        /// The ask's number.
        ask: u64,
        /// The value's number.
        value: u64,
    },
    /// There is nothing to add for now.
    Idle {
        /// The ask's number.
        ask: u64,
    },
    /// Revokes [`Message::Idle`].
    Busy {
        /// The ask's number.
        ask: u64,
    },
    /// A resolver of the bus failed and will be retried; or the controller that was asked failed, and its values are gone.
    Failed {
        /// The ask's number.
        ask: u64,
        /// Why.
        error: Error,
    },
    /// The controller's resolver has returned; its values stay.
    Done {
        /// The ask's number.
        ask: u64,
    },
    /// The bus's directive is gone, with all its values: it was superseded, or the bus was closed.
    End {
        /// The ask's number.
        ask: u64,
    },
}

/// Without this, a slice of bytes would be written as a list of numbers. It is read as it should be.
fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
