//! `cbus page`: opens a daemon's page in a browser.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use controllerbus_api::proto::OpenPageRequest;
use controllerbus_api::{Address, Connection, sockets};
use miette::Result;

use crate::cli::Page;
use crate::client::{connect, daemon, refused};
use crate::text::print_line;

/// After how long the next command removes a file that redirects to a daemon's page.
const OLD: Duration = Duration::from_secs(60);

pub async fn run(args: &Page) -> Result<()> {
    let link = link(&daemon(&args.to)?).await?;
    print_line(&link);
    if !args.print {
        open(&link);
    }
    Ok(())
}

/// A link to a daemon's page, which works once.
pub async fn link(to: &Connection) -> Result<String> {
    let mut client = connect(to).await?;
    let opened = client.open_page(OpenPageRequest {}).await.map_err(refused(to))?.into_inner();
    Ok(match to.address() {
        Address::Tcp { .. } if opened.port == 0 => {
            let scheme = if to.is_tls() { "https" } else { "http" };
            format!("{scheme}://{}/login?code={}", to.address(), opened.code)
        }
        _ => format!("http://127.0.0.1:{}/login?code={}", opened.port, opened.code),
    })
}

/// Opens the link in a browser, if there is one. A program's arguments are visible to every user of the machine, so the
/// browser gets a file instead that only this user can read and that redirects to the link.
pub fn open(link: &str) {
    let Ok(folder) = sockets::folder() else { return };
    remove_old(&folder);
    let Some(file) = write(&folder, link) else { return };
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = || Stdio::null();
    let _ = Command::new(opener).arg(file).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
}

fn write(folder: &Path, link: &str) -> Option<PathBuf> {
    // Only its owner can read the file, whatever the umask.
    let mut made = tempfile::Builder::new().prefix("page-").suffix(".html").tempfile_in(folder).ok()?;
    let text =
        format!("<!doctype html><meta http-equiv=\"refresh\" content=\"0; url={link}\"><title>ControllerBus</title>");
    std::io::Write::write_all(&mut made, text.as_bytes()).ok()?;
    made.into_temp_path().keep().ok()
}

fn remove_old(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let old =
            entry.metadata().and_then(|found| found.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|it| it > OLD));
        if old && entry.file_name().to_string_lossy().starts_with("page-") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
