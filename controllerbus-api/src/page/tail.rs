//! What the journal has that a page does not know yet, in as few messages as possible.

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::proto::{Event, LogLine};

/// What the journal numbers, from 1.
pub trait Numbered: Clone {
    fn number(&self) -> u64;
}

impl Numbered for Event {
    fn number(&self) -> u64 {
        self.number
    }
}

impl Numbered for LogLine {
    fn number(&self) -> u64 {
        self.number
    }
}

/// How many entries one message has at most.
const MOST: usize = 500;

/// A place in what the journal has.
pub struct Tail<T> {
    last: u64,
    coming: Receiver<T>,
}

impl<T: Numbered> Tail<T> {
    /// What the journal has, and the place behind it.
    pub fn of(journal: impl FnOnce() -> (Vec<T>, Receiver<T>)) -> (Vec<T>, Self) {
        let (known, coming) = journal();
        let last = known.last().map_or(0, Numbered::number);
        (known, Self { last, coming })
    }

    /// What has come since, at least one entry of it, or nothing that is new; `None` once nothing more comes. A page that has not
    /// read for long gets what the journal still has. Cancel-safe.
    pub async fn next(&mut self, journal: impl Fn() -> (Vec<T>, Receiver<T>)) -> Option<Vec<T>> {
        let first = match self.coming.recv().await {
            Ok(first) => Ok(first),
            Err(RecvError::Lagged(_)) => Err(TryRecvError::Lagged(0)),
            Err(RecvError::Closed) => return None,
        };
        let mut news = Vec::new();
        let mut next = first;
        loop {
            match next {
                Ok(entry) => news.push(entry),
                Err(TryRecvError::Lagged(_)) => {
                    (news, self.coming) = journal();
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
            if news.len() == MOST {
                break;
            }
            next = self.coming.try_recv();
        }
        news.retain(|entry| entry.number() > self.last);
        self.last = news.last().map_or(self.last, Numbered::number);
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Journal;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_many_threads_log_at_once_comes_in_its_order_and_without_a_hole() {
        const THREADS: u64 = 8;
        const EACH: u64 = 500;
        let journal = Journal::new();
        let (_, mut tail) = Tail::of(|| journal.lines());
        let read = std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..EACH).for_each(|_| journal.line(LogLine::default())));
            }
            let all = async {
                let mut numbers = Vec::new();
                while numbers.last() != Some(&(THREADS * EACH)) {
                    let news = tail.next(|| journal.lines()).await.expect("the journal is there");
                    numbers.extend(news.iter().map(Numbered::number));
                }
                numbers
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(all))
        });
        assert!(read.into_iter().eq(1..=THREADS * EACH));
    }

    #[tokio::test]
    async fn a_page_that_has_not_read_for_long_gets_what_the_journal_still_has_and_nothing_twice() {
        let journal = Journal::new();
        let log = |count: usize| {
            for _ in 0..count {
                journal.line(LogLine::default());
            }
        };
        log(3);
        let (known, mut tail) = Tail::of(|| journal.lines());
        assert_eq!(known.len(), 3);
        log(2);
        let numbers =
            |news: Vec<LogLine>| (news.first().map(Numbered::number), news.last().map(Numbered::number), news.len());
        assert_eq!(tail.next(|| journal.lines()).await.map(numbers), Some((Some(4), Some(5), 2)), "in one message");
        // More than wait for it, and fewer than the journal keeps.
        log(2000);
        assert_eq!(tail.next(|| journal.lines()).await.map(numbers), Some((Some(6), Some(2005), 2000)));
        log(20_000);
        let all = tail.next(|| journal.lines()).await.map(numbers).expect("lines");
        assert!(all.1 == Some(22_005) && all.2 <= 5000, "{all:?}");
        log(1);
        assert_eq!(tail.next(|| journal.lines()).await.map(numbers), Some((Some(22_006), Some(22_006), 1)));
    }
}
