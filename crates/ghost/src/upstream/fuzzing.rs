//! Reads a provider's answer from bytes alone, as the fuzzer throws them.
//! Never: a connection; this is the way from bytes to a head and a body and nothing else.

use bytes::BytesMut;

use super::body::Framing;
use super::head::HeadReader;

/// The status and the body of an answer that arrives in these reads; `None`: it is broken, or not all there.
pub(crate) fn answer<'a>(reads: impl Iterator<Item = &'a [u8]>) -> Option<(u16, Vec<u8>)> {
    let (mut head, mut framing, mut status) = (HeadReader::default(), None::<Framing>, 0);
    let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
    for read in reads {
        buffer.extend_from_slice(read);
        if framing.is_none()
            && let Some(found) = head.read(&mut buffer).ok()?
        {
            status = found.status.as_u16();
            framing = Some(found.framing);
        }
        let Some(framing) = &mut framing else { continue };
        if !framing.is_ended() && !buffer.is_empty() {
            body.extend_from_slice(&framing.decode(&mut buffer).ok()?);
        }
    }
    let framing = framing?;
    (framing.is_ended() || framing == Framing::UntilClose).then_some((status, body))
}
