//! How many items go into one request.

use std::ops::Range;

use super::item::Item;

/// Servers refuse longer requests (`max_request_size`, 32 MiB unless it was changed); some of it is
/// for what stands around the item.
const MOST_BYTES: usize = 32 * 1024 * 1024 - 1024;

/// As much as goes into one request of several items: it is an answer of about that length, too,
/// and a request that is soon over delays nobody else's for long.
const CHUNK_BYTES: usize = 1024 * 1024;

/// OpenBao counts the strings of a request, names of fields included, and refuses more than 1000
/// (`max_request_json_strings`); HashiCorp Vault refuses more than 10 000 items.
const CHUNK_STRINGS: usize = 900;

/// What stands around an item, in a request or in an answer.
const AROUND: usize = 128;

/// What an item takes of both limits.
struct Size {
    bytes: usize,
    strings: usize,
}

/// `plain`: it goes as base64, and comes back as a ciphertext or not at all. Else it is one.
fn size(item: &Item<'_>, plain: bool) -> Size {
    // A ciphertext is some 40 bytes longer than its plaintext.
    let base64 = |length: usize| (length + 48).div_ceil(3) * 4;
    let input = if plain { base64(item.input.len()) } else { item.input.len() };
    let others = [item.context, item.associated_data];
    let others = || others.iter().filter(|other| !other.is_empty());
    let bytes = input + others().map(|other| base64(other.len())).sum::<usize>();
    let strings = 2 + 2 * others().count() + usize::from(item.key_version.is_some());
    Size { bytes: bytes + AROUND, strings }
}

/// The most that an item may take, where an answer may be so long.
pub(super) fn most(max_response: usize) -> usize {
    MOST_BYTES.min(max_response)
}

/// Whether it fits into a request, and its answer into `max_response`.
pub(super) fn fits(item: &Item<'_>, plain: bool, max_response: usize) -> bool {
    size(item, plain).bytes <= most(max_response)
}

/// The items in parts that go into one request each, in order. Either all of a part have a context
/// or none: the engine refuses to mix them.
pub(super) fn chunks(items: &[Item<'_>], plain: bool, max_response: usize) -> Vec<Range<usize>> {
    let room = CHUNK_BYTES.min(max_response);
    let mut chunks = Vec::new();
    let (mut from, mut used) = (0, Size { bytes: 0, strings: 0 });
    for (at, item) in items.iter().enumerate() {
        let Size { bytes, strings } = size(item, plain);
        let full = used.bytes + bytes > room || used.strings + strings > CHUNK_STRINGS;
        let other = item.context.is_empty() != items[from].context.is_empty();
        if at > from && (full || other) {
            chunks.push(from..at);
            (from, used) = (at, Size { bytes: 0, strings: 0 });
        }
        used.bytes += bytes;
        used.strings += strings;
    }
    if from < items.len() {
        chunks.push(from..items.len());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn lengths(items: &[Item<'_>], max_response: usize) -> Vec<usize> {
        let chunks = chunks(items, true, max_response);
        let mut next = 0;
        for chunk in &chunks {
            assert_eq!(chunk.start, next, "in order, with nothing left out");
            next = chunk.end;
        }
        assert_eq!(next, items.len());
        chunks.into_iter().map(|chunk| chunk.len()).collect()
    }

    #[test]
    fn a_batch_is_cut_where_the_server_would_refuse_it() {
        assert!(lengths(&[], MIB).is_empty());
        assert_eq!(lengths(&[Item::new("a")], MIB), [1]);
        // Two strings each, and six each.
        assert_eq!(lengths(&vec![Item::new("a"); 1000], MIB), [450, 450, 100]);
        let bound = Item::new("a").context("c").associated_data("d");
        assert_eq!(lengths(&[bound; 400], MIB), [150, 150, 100]);
        let long = vec![0; 100 * 1024];
        assert_eq!(lengths(&vec![Item::new(&long); 16], 2 * MIB), [7, 7, 2]);
        assert_eq!(lengths(&[Item::new(&long); 3], MIB / 4), [1, 1, 1]);
        let mixed = [Item::new("a"), bound, bound, Item::new("a")];
        assert_eq!(lengths(&mixed, MIB), [1, 2, 1]);
    }

    #[test]
    fn one_item_may_be_as_long_as_request_and_answer_may_be() {
        let fits = |bytes: usize, plain, max| fits(&Item::new(&vec![0; bytes]), plain, max);
        assert!(fits(700 * 1024, true, MIB) && !fits(800 * 1024, true, MIB));
        assert!(fits(23 * MIB, true, 64 * MIB) && !fits(24 * MIB, true, 64 * MIB));
        assert!(fits(1000 * 1024, false, MIB) && !fits(MIB, false, MIB));
        assert!(fits(31 * MIB, false, 64 * MIB) && !fits(32 * MIB, false, 64 * MIB));
    }
}
