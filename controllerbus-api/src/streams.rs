//! Streams that end with the API, so that no listener delays the shutdown of a daemon.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// How many messages a stream holds for a client that does not read.
const ROOM: usize = 64;

/// A stream of what a task sends, until the task ends, the receiver is dropped, or one of `ends` is cancelled: the API's
/// end, and the end of the caller's permission.
pub fn stream<T, F>(ends: [CancellationToken; 2], make: impl FnOnce(mpsc::Sender<T>) -> F) -> ReceiverStream<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    stream_of(ROOM, ends, make)
}

/// The same, which holds so many messages for a client that does not read.
pub fn stream_of<T, F>(
    room: usize,
    ends: [CancellationToken; 2],
    make: impl FnOnce(mpsc::Sender<T>) -> F,
) -> ReceiverStream<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(room);
    let gone = sender.clone();
    let work = make(sender);
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = ends[0].cancelled() => {}
            () = ends[1].cancelled() => {}
            () = gone.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}
