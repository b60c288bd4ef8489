//! Where what is shown comes from, and what is asked of it.

use std::pin::Pin;

use controllerbus_api::Connection;

use super::keys::Want;
use super::model::Shown;
use super::ui::Ui;
use crate::command::page;

/// Something that was asked for; how it went, if that is not seen anyway.
pub type Job = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// A host, or a daemon.
pub trait Source {
    /// Waits for something new. Cancel-safe.
    async fn changed(&mut self);

    /// Brings what is shown up to date.
    fn fill(&mut self, shown: &mut Shown, ui: &Ui);

    /// Begins to do what a key asks for.
    fn ask(&mut self, want: &Want, shown: &Shown) -> Option<Job>;
}

/// Opens a daemon's page in a browser.
pub async fn open_page(to: Connection) -> Option<String> {
    match page::link(&to).await {
        Ok(link) => {
            page::open(&link);
            Some("the page opens in the browser; without one, `cbus page --print` has its link".to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}
