//! `cbus fleet`: joins the buses of several machines, and shows who is there.
//!
//! What asks a daemon works in every build. What makes certificates, or joins a fleet itself, needs the feature `fleet`.

mod acl;
#[cfg(feature = "fleet")]
mod authority;
#[cfg(feature = "fleet")]
mod certificates;
mod doctor;
#[cfg(feature = "fleet")]
pub mod entry;
#[cfg(feature = "fleet")]
mod files;
mod hosts;
#[cfg(feature = "fleet")]
mod init;
#[cfg(feature = "fleet")]
pub mod joining;
mod offers;
#[cfg(feature = "fleet")]
mod policy;
pub mod printed;
#[cfg(feature = "fleet")]
mod reach;
pub mod status;

use miette::Result;

use crate::cli::Fleet;

pub async fn run(command: Fleet) -> Result<()> {
    match command {
        #[cfg(feature = "fleet")]
        Fleet::Init(args) => init::init(&args),
        #[cfg(feature = "fleet")]
        Fleet::Cert(args) => init::cert(&args),
        #[cfg(not(feature = "fleet"))]
        Fleet::Init(_) | Fleet::Cert(_) => Err(missing("this command")),
        Fleet::Hosts(args) => hosts::run(&args).await,
        Fleet::Offers(args) => offers::run(&args).await,
        Fleet::Acl(args) => acl::run(&args),
        Fleet::Doctor(args) => doctor::run(&args).await,
    }
}

/// Says how to get what this build does not have.
#[cfg(not(feature = "fleet"))]
pub fn missing(what: &str) -> miette::Report {
    crate::report::report(
        format!("{what} needs {}", crate::daemon::fleet::FEATURE),
        crate::daemon::fleet::HOW_TO_GET_IT,
    )
}
