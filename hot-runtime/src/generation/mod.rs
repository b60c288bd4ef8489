//! Generations: how one takes over from another, which ones served before, and which are loaded.

pub(crate) mod builds;
pub(crate) mod conflicts;
pub(crate) mod context;
pub(crate) mod history;
pub(crate) mod probation;
pub(crate) mod registry;
pub(crate) mod serving;
pub(crate) mod swap;
