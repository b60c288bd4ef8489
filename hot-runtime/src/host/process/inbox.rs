//! The reading half of a connection: frames as they come.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::socket::ReadingHalf;

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// What was read and not yet handed out.
pub(super) struct Inbox {
    socket: ReadingHalf,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    chunk: Box<[u8]>,
    /// What came beside the bytes, for whoever takes it; `None` where nothing is expected.
    descriptors: Option<VecDeque<OwnedFd>>,
}

impl Inbox {
    pub(super) fn new(socket: ReadingHalf, longest: usize) -> Self {
        let codec = LengthDelimitedCodec::builder().little_endian().max_frame_length(longest).new_codec();
        Self { socket, codec, buffer: BytesMut::new(), chunk: vec![0; CHUNK].into(), descriptors: None }
    }

    /// The same, which keeps the descriptors that come.
    pub(super) fn with_descriptors(socket: ReadingHalf, longest: usize) -> Self {
        Self { descriptors: Some(VecDeque::new()), ..Self::new(socket, longest) }
    }

    /// The next descriptor that has come: each message that has one is told of in the order in which they were sent.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.as_mut()?.pop_front()
    }

    /// The next frame; `None` at the end of the connection. Cancel-safe.
    ///
    /// # Errors
    /// A frame that is longer than the limit, or what the system said.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<BytesMut>> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let read = match &mut self.descriptors {
                Some(descriptors) => self.socket.read_with(&mut self.chunk, descriptors).await?,
                None => self.socket.read(&mut self.chunk).await?,
            };
            match read {
                0 => return Ok(None),
                read => self.buffer.extend_from_slice(&self.chunk[..read]),
            }
        }
    }
}
