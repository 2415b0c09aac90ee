//! Server-sent events: lines to events, fed in pieces of any size.

use memchr::memchr2;

/// An event may not be larger than this.
pub(super) const EVENT_MOST: usize = 16 * 1024 * 1024;

/// Collects the `data` of events. Other fields and comments are passed over.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each remembers one thing about the bytes so far")]
pub(super) struct Framer {
    /// The unfinished line.
    line: Vec<u8>,
    /// The data of the unfinished event, joined by newlines.
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last byte was a carriage return, whose line feed is still to come.
    after_cr: bool,
    /// Whether anything but a byte order mark was seen.
    begun: bool,
    too_large: bool,
}

impl Framer {
    /// Feeds bytes and calls `on_event` with the data of every event that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(&[u8])) {
        if self.after_cr && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
            self.after_cr = false;
        }
        while let Some(end) = memchr2(b'\n', b'\r', bytes) {
            // The ordinary event is one line and an empty one, and is passed on where it lies.
            if let Some((data, rest)) = self.whole_event(bytes, end) {
                on_event(data);
                bytes = rest;
                continue;
            }
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.take_line(&bytes[..end], &mut on_event);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.take_line(&line, &mut on_event);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
            if self.after_cr && !bytes.is_empty() {
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
                self.after_cr = false;
            }
        }
        if !bytes.is_empty() {
            self.after_cr = false;
            if self.line.len() + bytes.len() > EVENT_MOST {
                self.too_large = true;
                self.line.clear();
            } else {
                self.line.extend_from_slice(bytes);
            }
        }
    }

    /// The data of an event that lies whole at the start of `bytes`, whose first line ends at `end`, and
    /// what follows it.
    fn whole_event<'a>(&self, bytes: &'a [u8], end: usize) -> Option<(&'a [u8], &'a [u8])> {
        let fresh = self.begun && self.line.is_empty() && !self.has_data;
        let rest = bytes[end..].strip_prefix(b"\n\n").filter(|_| fresh)?;
        let value = bytes[..end].strip_prefix(b"data:")?;
        (value.len() <= EVENT_MOST).then(|| (value.strip_prefix(b" ").unwrap_or(value), rest))
    }

    /// Whether an event grew beyond the limit.
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large
    }

    fn take_line(&mut self, line: &[u8], on_event: &mut impl FnMut(&[u8])) {
        let line = if self.begun { line } else { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) };
        self.begun = true;
        if line.is_empty() {
            if self.has_data {
                on_event(&self.data);
                self.data.clear();
                self.has_data = false;
            }
            return;
        }
        // "data:{...}" without the space is what TGI sent before 2.1.
        let Some(value) = line.strip_prefix(b"data").and_then(|rest| rest.strip_prefix(b":")) else { return };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.data.len() + value.len() > EVENT_MOST {
            self.too_large = true;
            return;
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut framer, mut events) = (Framer::default(), Vec::new());
        for piece in pieces {
            framer.feed(piece, |data| events.push(data.to_vec()));
        }
        events
    }

    #[test]
    fn lines_may_end_in_any_of_the_three_ways() {
        for text in ["data: a\n\ndata: b\n\n", "data:a\r\n\r\ndata:b\r\n\r\n", "data: a\r\rdata: b\r\r"] {
            assert_eq!(events(&[text.as_bytes()]), [b"a", b"b"], "{text:?}");
        }
    }

    #[test]
    fn comments_other_fields_and_a_byte_order_mark_are_passed_over() {
        let text = "\u{feff}:\n\nevent: x\nid: 1\ndata: a\ndata: b\n\n:\n\n\n\n";
        assert_eq!(events(&[text.as_bytes()]), [b"a\nb"]);
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_delivered() {
        assert!(events(&[b"data: a\n"]).is_empty());
    }

    #[test]
    fn an_endless_line_does_not_grow_without_bound() {
        let mut framer = Framer::default();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            framer.feed(&piece, |_| {});
        }
        assert!(framer.is_too_large());
        assert!(framer.line.len() <= EVENT_MOST);
    }

    proptest! {
        #[test]
        fn cutting_the_bytes_anywhere_changes_nothing(
            text in "(data: ?[a-z]{0,3}|:|x|\r|\n|\r\n|\u{feff}|é){0,40}",
            cuts in proptest::collection::vec(0_usize..200, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= bytes.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(events(&pieces), events(&[bytes]));
        }
    }
}
