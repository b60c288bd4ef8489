//! The caller of a request, and what they may do.

use std::fmt;

use tokio_util::sync::CancellationToken;

/// What a caller may do. Every caller may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Apply and remove configs.
    pub apply: bool,
    /// Reload and unload plugins.
    pub control: bool,
}

impl Roles {
    pub const LOOK: Self = Self { apply: false, control: false };
    pub const ALL: Self = Self { apply: true, control: true };

    /// From `look`, `apply` and `control`, separated by commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut roles = Self::LOOK;
        for word in text.split(',') {
            match word {
                "look" => {}
                "apply" => roles.apply = true,
                "control" => roles.control = true,
                other => return Err(format!("`{other}` is not a role; the roles are look, apply and control")),
            }
        }
        Ok(roles)
    }

    /// Whether they allow what a call needs.
    pub fn allow(self, need: Need) -> bool {
        match need {
            Need::Look => true,
            Need::Apply => self.apply,
            Need::Control => self.control,
        }
    }
}

/// What a call requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Only looking.
    Look,
    /// Applying and removing configs.
    Apply,
    /// Reloading and unloading plugins.
    Control,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "look",
            Self::Apply => "apply",
            Self::Control => "control",
        })
    }
}

/// The caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Their name in the log.
    pub who: String,
    pub roles: Roles,
    /// Whether they have shown who they are.
    pub is_known: bool,
    /// Cancelled when their credentials are no longer valid.
    pub revoked: CancellationToken,
    /// Whether they are the daemon's own user, who needs no credentials.
    pub own: bool,
}

impl Caller {
    pub fn new(who: impl Into<String>, roles: Roles) -> Self {
        Self { who: who.into(), roles, is_known: true, revoked: CancellationToken::new(), own: false }
    }

    /// The daemon's own user.
    pub fn own(who: impl Into<String>) -> Self {
        Self { own: true, ..Self::new(who, Roles::ALL) }
    }

    /// Somebody who has not said who they are.
    pub fn anybody() -> Self {
        Self { is_known: false, ..Self::new("anybody", Roles::LOOK) }
    }

    /// Logs that they change something.
    pub fn audit(&self, what: fmt::Arguments<'_>) {
        tracing::info!(target: "cbus::audit", "{} {what}", self.who);
    }
}
