//! Streams that end with the API, so that nobody who listens keeps a daemon from ending.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A stream of what a task sends, until it ends, nobody listens any more, or the API ends.
pub fn stream<T, F>(end: &CancellationToken, make: impl FnOnce(mpsc::Sender<T>) -> F) -> ReceiverStream<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(64);
    let gone = sender.clone();
    let work = make(sender);
    let end = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = end.cancelled() => {}
            () = gone.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}
