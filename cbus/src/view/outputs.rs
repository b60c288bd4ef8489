//! What this process prints while the view is shown: it goes to the log instead of over the view.
//!
//! Both outputs are a file that the keeper has made, which is followed. A pipe would hold up whoever prints while nobody reads,
//! and what is in it is lost when the process ends at once: but that is what the keeper prints then.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the file is looked at.
const OFTEN: Duration = Duration::from_millis(50);

/// How much of what was read is kept in the file, in bytes: for the keeper.
const KEPT: u64 = 64 << 10;

/// How far what is read may be behind what is printed, in bytes; what is older is skipped.
const BEHIND: u64 = 16 << 20;

/// How much is read before the rest is given back to the system, in bytes.
const MOST: u64 = 1 << 20;

/// The length at which a line without an end is taken for one, in bytes.
const LINE: usize = 16 << 10;

/// While it exists, standard output and standard error go to a file, and from there to whoever takes the lines.
pub struct Outputs {
    before: [Option<OwnedFd>; 2],
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outputs {
    /// Redirects to a file that the keeper has created; `say` gets each line, without its end, on a thread of its own.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn into_file(path: &Path, say: impl Fn(String) + Send + 'static) -> std::io::Result<Self> {
        let file = File::options().append(true).open(path)?;
        let mut reader =
            Reader { file: File::options().read(true).write(true).open(path)?, at: 0, freed: 0, rest: Vec::new() };
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new().name("cbus-outputs".to_owned()).spawn(move || {
            loop {
                // Asked first: what was printed before the end is read after it.
                let is_last = ended.load(Ordering::Acquire);
                reader.read(&say);
                if is_last {
                    return reader.last(&say);
                }
                std::thread::sleep(OFTEN);
            }
        })?;
        let _ = std::io::stdout().flush();
        // Not for processes that are started: they would keep the terminal.
        let kept = |output| rustix::io::fcntl_dupfd_cloexec(output, 3).ok();
        let before = [kept(rustix::stdio::stdout()), kept(rustix::stdio::stderr())];
        rustix::stdio::dup2_stdout(&file)?;
        rustix::stdio::dup2_stderr(&file)?;
        Ok(Self { before, end, thread: Some(thread) })
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        let _ = std::io::stdout().flush();
        if let Some(before) = &self.before[0] {
            let _ = rustix::stdio::dup2_stdout(before);
        }
        if let Some(before) = &self.before[1] {
            let _ = rustix::stdio::dup2_stderr(before);
        }
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Reader {
    file: File,
    /// How far it was read.
    at: u64,
    /// How much of that was given back.
    freed: u64,
    /// A line that has not ended.
    rest: Vec<u8>,
}

impl Reader {
    fn read(&mut self, say: &impl Fn(String)) {
        let Ok(length) = self.file.metadata().map(|found| found.len()) else { return };
        if length.saturating_sub(self.at) > BEHIND {
            let skipped = length - KEPT - self.at;
            self.last(say);
            say(format!("{skipped} bytes of output came faster than they were read, and are lost"));
            self.at += skipped;
            self.free();
        }
        if length <= self.at || self.file.seek(SeekFrom::Start(self.at)).is_err() {
            return;
        }
        // What comes meanwhile is read the next time, so that what was read is given back in between.
        let mut left = length - self.at;
        let mut buffer = [0; 8192];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let Ok(count @ 1..) = self.file.read(&mut buffer[..most]) else { break };
            left -= count as u64;
            self.at += count as u64;
            for byte in &buffer[..count] {
                if *byte == b'\n' || self.rest.len() >= LINE {
                    self.last(say);
                }
                if *byte != b'\n' {
                    self.rest.push(*byte);
                }
            }
        }
        self.free();
    }

    fn last(&mut self, say: &impl Fn(String)) {
        let line = std::mem::take(&mut self.rest);
        if !line.is_empty() {
            say(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        }
    }

    /// Gives what was read long ago back to the system; the rest of the file stays where it is, because others append to it.
    fn free(&mut self) {
        let until = self.at.saturating_sub(KEPT);
        if until - self.freed.min(until) < MOST {
            return;
        }
        if self.punch(until) {
            self.freed = until;
        } else if self.file.metadata().is_ok_and(|found| found.len() == self.at) && self.file.set_len(0).is_ok() {
            // All that was printed was read. Whoever prints appends, so the file starts over.
            (self.at, self.freed) = (0, 0);
        }
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, until: u64) -> bool {
        use rustix::fs::{FallocateFlags, fallocate};
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, self.freed, until - self.freed).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _: u64) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_is_appended_is_told_once_however_much_there_is() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let open = || File::options().read(true).write(true).open(file.path()).expect("the file");
        let mut reader = Reader { file: open(), at: 0, freed: 0, rest: Vec::new() };
        let told = std::cell::RefCell::new(Vec::new());
        let say = |line| told.borrow_mut().push(line);
        let mut writer = File::options().append(true).open(file.path()).expect("the file");
        writer.write_all(b"one\r\ntwo, in").expect("writing");
        reader.read(&say);
        assert_eq!(*told.borrow(), ["one"]);
        writer.write_all(b" parts\n").expect("writing");
        reader.read(&say);
        assert_eq!(told.borrow_mut().split_off(1), ["two, in parts"]);
        let line = "x".repeat(99) + "\n";
        for _ in 0..30 {
            writer.write_all(line.repeat(1000).as_bytes()).expect("writing");
            reader.read(&say);
        }
        writer.write_all(b"the end").expect("writing");
        reader.read(&say);
        reader.last(&say);
        assert_eq!(told.borrow().len(), 1 + 30_000 + 1);
        // What nobody can read in time is skipped, and that is told.
        let flood = "y".repeat(1 << 20) + "\n";
        for _ in 0..18 {
            writer.write_all(flood.as_bytes()).expect("writing");
        }
        writer.write_all(b"after the flood\n").expect("writing");
        reader.read(&say);
        let last = told.borrow_mut().split_off(30_002);
        assert!(last[0].ends_with("came faster than they were read, and are lost"), "{}", last[0]);
        assert_eq!(last.last().map(String::as_str), Some("after the flood"));
        told.borrow_mut().push("the end".to_owned());
        assert_eq!(told.borrow().last().map(String::as_str), Some("the end"));
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::MetadataExt;
            let kept = file.as_file().metadata().expect("its state").blocks() * 512;
            assert!(kept < 2 * MOST, "{kept} bytes are kept");
        }
    }
}
