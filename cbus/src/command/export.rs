//! `cbus config export`: the configs that a daemon runs, as a config file.

use std::io::Write;
use std::path::Path;

use controllerbus_api::proto::ExportConfigsRequest;
use miette::Result;

use crate::cli::ConfigExport;
use crate::client::{connect, daemon, refused};
use crate::report::io;
use crate::text::print_as_it_is;

pub async fn run(args: &ConfigExport) -> Result<()> {
    let to = daemon(&args.to)?;
    let mut client = connect(&to).await?;
    let told = client.export_configs(ExportConfigsRequest {}).await.map_err(refused(&to))?.into_inner();
    match &args.output {
        // What could control a terminal is escaped in it.
        None => print_as_it_is(told.config_set.trim_end()),
        Some(path) => write(path, &told.config_set).map_err(io("writing the configs", path))?,
    }
    Ok(())
}

/// Written whole or not at all, for this user only.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(std::io::Error::other("it is there and is not a regular file; without -o it is printed"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
