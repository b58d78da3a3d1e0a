//! A compact set of shelf numbers, for one blob each: whoever has the blob on his shelf.
//!
//! Three forms, each the smallest for its number of holders: up to seven inline, then a sorted vector, then
//! one bit per shelf once that is no larger (a vector takes 16 bits per holder). 24 bytes, heap aside.

use std::slice;

/// Number of a shelf: small, and used again.
pub(in crate::policy) type Shelf = u16;

/// Shelf numbers without an allocation.
const INLINE: usize = 7;
/// A vector takes as many bits for one holder.
const BITS_EACH: usize = Shelf::BITS as usize;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Shelves {
    Few { len: u8, few: [Shelf; INLINE] },
    Some(Vec<Shelf>),
    Bits(Box<[u64]>),
}

impl Default for Shelves {
    fn default() -> Self {
        Self::Few { len: 0, few: [0; INLINE] }
    }
}

impl Shelves {
    /// Whether it was not in yet.
    pub(in crate::policy) fn insert(&mut self, shelf: Shelf) -> bool {
        match self {
            Self::Few { len, few } => {
                let used = usize::from(*len);
                let Err(at) = few[..used].binary_search(&shelf) else { return false };
                if used < INLINE {
                    few.copy_within(at..used, at + 1);
                    few[at] = shelf;
                    *len += 1;
                } else {
                    let mut more = Vec::with_capacity(INLINE + 4);
                    more.extend_from_slice(few);
                    more.insert(at, shelf);
                    *self = Self::Some(more);
                    self.condense();
                }
            }
            Self::Some(more) => {
                let Err(at) = more.binary_search(&shelf) else { return false };
                // Not doubled: there are millions of these.
                more.reserve_exact(if more.len() == more.capacity() { more.len() / 4 + 4 } else { 0 });
                more.insert(at, shelf);
                self.condense();
            }
            Self::Bits(words) => {
                let (word, bit) = place(shelf);
                if word >= words.len() {
                    return self.widen(shelf);
                }
                let was = words[word];
                words[word] |= bit;
                return was & bit == 0;
            }
        }
        true
    }

    /// Whether it was in.
    pub(in crate::policy) fn remove(&mut self, shelf: Shelf) -> bool {
        let was = self.contains(shelf);
        if was {
            self.retain(|other| other != shelf);
        }
        was
    }

    pub(in crate::policy) fn contains(&self, shelf: Shelf) -> bool {
        match self {
            Self::Few { len, few } => few[..usize::from(*len)].contains(&shelf),
            Self::Some(more) => more.binary_search(&shelf).is_ok(),
            Self::Bits(words) => {
                let (word, bit) = place(shelf);
                words.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }

    /// Keeps those for which `keep` is true, in the form that is the smallest for them.
    pub(in crate::policy) fn retain(&mut self, keep: impl Fn(Shelf) -> bool) {
        match self {
            Self::Few { len, few } => {
                let mut kept = 0;
                for at in 0..usize::from(*len) {
                    if keep(few[at]) {
                        few[kept] = few[at];
                        kept += 1;
                    }
                }
                *len = kept as u8;
            }
            Self::Some(more) => {
                more.retain(|shelf| keep(*shelf));
                self.shorten();
            }
            Self::Bits(words) => {
                let mut left = 0;
                for (index, word) in words.iter_mut().enumerate() {
                    for shelf in (Ones { index, word: *word }) {
                        if !keep(shelf) {
                            *word &= !place(shelf).1;
                        }
                    }
                    left += word.count_ones() as usize;
                }
                // Half as many as would make bits of it: so that one who comes and goes changes nothing.
                if left * BITS_EACH * 2 < words.len() * 64 {
                    *self = Self::Some(self.iter().collect());
                    self.shorten();
                }
            }
        }
    }

    pub(in crate::policy) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => usize::from(*len),
            Self::Some(more) => more.len(),
            Self::Bits(words) => words.iter().map(|word| word.count_ones() as usize).sum(),
        }
    }

    pub(in crate::policy) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In ascending order.
    pub(in crate::policy) fn iter(&self) -> Iter<'_> {
        self.from(0, Shelf::MAX)
    }

    /// Visits them in ascending order from `first` on, then those before it, until `visit` says that it is enough.
    pub(in crate::policy) fn visit_from(&self, first: Shelf, visit: &mut impl FnMut(Shelf) -> bool) {
        let is_enough = self.from(first, Shelf::MAX).visit(visit);
        if first > 0 && !is_enough {
            self.from(0, first - 1).visit(visit);
        }
    }

    fn from(&self, first: Shelf, last: Shelf) -> Iter<'_> {
        let list = match self {
            Self::Few { len, few } => &few[..usize::from(*len)],
            Self::Some(more) => more,
            Self::Bits(words) => return Iter::Bits(Bits::new(words, first, last)),
        };
        if (first, last) == (0, Shelf::MAX) {
            return Iter::List(list.iter());
        }
        let start = list.partition_point(|shelf| *shelf < first);
        let end = list.partition_point(|shelf| *shelf <= last);
        Iter::List(list[start..end].iter())
    }

    /// Bytes on the heap.
    pub(in crate::policy) fn heap_bytes(&self) -> usize {
        match self {
            Self::Few { .. } => 0,
            Self::Some(more) => more.capacity() * size_of::<Shelf>(),
            Self::Bits(words) => words.len() * size_of::<u64>(),
        }
    }

    /// Makes bits of a vector if that is smaller.
    fn condense(&mut self) {
        let Self::Some(more) = self else { return };
        let words = more.last().map_or(0, |last| place(*last).0 + 1);
        if words * 64 > more.len() * BITS_EACH {
            return;
        }
        let mut bits = vec![0; words].into_boxed_slice();
        for shelf in &*more {
            let (word, bit) = place(*shelf);
            bits[word] |= bit;
        }
        *self = Self::Bits(bits);
    }

    /// Makes what is inline of a vector that is short enough.
    fn shorten(&mut self) {
        let Self::Some(more) = self else { return };
        // As with bits: not at once.
        if more.len() * 2 <= INLINE {
            let mut few = [0; INLINE];
            few[..more.len()].copy_from_slice(more);
            *self = Self::Few { len: more.len() as u8, few };
        } else if more.capacity() > more.len() * 2 {
            more.shrink_to_fit();
        }
    }

    /// Inserts a shelf past the end of the bits, unless a vector is smaller then.
    fn widen(&mut self, shelf: Shelf) -> bool {
        let Self::Bits(words) = self else { return false };
        let wanted = place(shelf).0 + 1;
        let count = words.iter().map(|word| word.count_ones() as usize).sum::<usize>() + 1;
        if wanted * 64 > count * BITS_EACH * 2 {
            let mut more: Vec<Shelf> = Vec::with_capacity(count);
            more.extend(self.iter());
            more.push(shelf);
            *self = Self::Some(more);
        } else {
            let mut wide = vec![0; wanted].into_boxed_slice();
            wide[..words.len()].copy_from_slice(words);
            let (word, bit) = place(shelf);
            wide[word] |= bit;
            *words = wide;
        }
        true
    }
}

fn place(shelf: Shelf) -> (usize, u64) {
    (usize::from(shelf / 64), 1 << (shelf % 64))
}

/// Shelf numbers in ascending order.
#[derive(Clone, Debug)]
pub(in crate::policy) enum Iter<'a> {
    List(slice::Iter<'a, Shelf>),
    Bits(Bits<'a>),
}

impl Default for Iter<'_> {
    fn default() -> Self {
        Self::List([].iter())
    }
}

impl Iter<'_> {
    /// Like a loop over it, in one for each form: this is where decisions begin. Whether it was enough.
    fn visit(self, visit: &mut impl FnMut(Shelf) -> bool) -> bool {
        match self {
            Self::List(mut list) => list.any(|shelf| visit(*shelf)),
            Self::Bits(mut bits) => bits.any(visit),
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Shelf;

    fn next(&mut self) -> Option<Shelf> {
        match self {
            Self::List(list) => list.next().copied(),
            Self::Bits(bits) => bits.next(),
        }
    }
}

/// The bits of one word that are set.
#[derive(Clone, Debug)]
struct Ones {
    index: usize,
    word: u64,
}

impl Iterator for Ones {
    type Item = Shelf;

    fn next(&mut self) -> Option<Shelf> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some((self.index * 64) as Shelf + bit as Shelf)
    }
}

/// The bits of many words that are set, up to one.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Bits<'a> {
    words: &'a [u64],
    ones: Ones,
    last: Shelf,
}

impl<'a> Bits<'a> {
    fn new(words: &'a [u64], first: Shelf, last: Shelf) -> Self {
        let (index, bit) = place(first);
        let word = words.get(index).map_or(0, |word| word & !(bit - 1));
        Self { words, ones: Ones { index, word }, last }
    }
}

impl Iterator for Bits<'_> {
    type Item = Shelf;

    fn next(&mut self) -> Option<Shelf> {
        loop {
            if let Some(shelf) = self.ones.next() {
                return (shelf <= self.last).then_some(shelf);
            }
            let index = self.ones.index + 1;
            let word = *self.words.get(index)?;
            self.ones = Ones { index, word };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set_in_every_form(
            steps in prop::collection::vec((any::<bool>(), 0u16..400), 0..600),
            spread in 1u16..160,
            first in 0u16..500,
        ) {
            let (mut shelves, mut plain) = (Shelves::default(), BTreeSet::new());
            for (is_in, shelf) in steps {
                let shelf = shelf * spread;
                if is_in {
                    prop_assert_eq!(shelves.insert(shelf), plain.insert(shelf));
                } else {
                    prop_assert_eq!(shelves.remove(shelf), plain.remove(&shelf));
                }
                prop_assert_eq!(shelves.contains(shelf), plain.contains(&shelf));
            }
            prop_assert_eq!(shelves.len(), plain.len());
            prop_assert!(shelves.iter().eq(plain.iter().copied()));
            let first = first * spread.min(130);
            let turned = plain.range(first..).chain(plain.range(..first)).copied();
            let mut visited = Vec::new();
            shelves.visit_from(first, &mut |shelf| {
                visited.push(shelf);
                visited.len() == 50
            });
            prop_assert!(turned.take(50).eq(visited));
            shelves.retain(|shelf| shelf % 3 == 0);
            plain.retain(|shelf| shelf % 3 == 0);
            prop_assert!(shelves.iter().eq(plain.iter().copied()));
            let highest = usize::from(plain.last().copied().unwrap_or(0));
            let smallest = (plain.len() * 2).min(highest / 8 + 8);
            prop_assert!(shelves.heap_bytes() <= smallest * 4 + 64, "{} for {}", shelves.heap_bytes(), smallest);
        }
    }

    #[test]
    fn is_small() {
        assert_eq!(size_of::<Shelves>(), 24);
    }
}
