//! Sets of byte ranges: which bytes of a blob are still to fetch, and which have landed.
//!
//! Ranges are half-open, disjoint, never empty, and merged when they touch, so two equal sets
//! are equal values and the size of a set is bounded by the number of holes in it.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, as half-open ranges of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        let mut set = Self::default();
        set.insert(range);
        set
    }
}

impl RangeSet {
    /// The set of all bytes of a blob of `size` bytes.
    pub fn whole(size: u64) -> Self {
        Self::from(0..size)
    }

    /// Adds `range`; what was in the set already stays.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&before, &its_end)) = self.ranges.range(..=end).next_back()
            && its_end >= start
        {
            start = start.min(before);
            end = end.max(its_end);
            self.ranges.remove(&before);
        }
        self.ranges.insert(start, end);
    }

    /// Takes `range` out; what was not in the set is ignored.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.ranges.range(..range.end).next_back()
            && end > range.start
        {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
        }
    }

    /// The parts of `range` that are in the set, in order.
    pub fn within(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first = self
            .ranges
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(&start, _)| start);
        self.ranges
            .range(first..range.end.max(first))
            .map(|(&start, &end)| start.max(range.start)..end.min(range.end))
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The first range, if the set is not empty.
    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.iter().next().map(|(&start, &end)| start..end)
    }

    /// Where the unbroken run that contains `offset` ends; `offset` itself if it is not in the set.
    pub fn run_end(&self, offset: u64) -> u64 {
        match self.ranges.range(..=offset).next_back() {
            Some((_, &end)) => end.max(offset),
            None => offset,
        }
    }

    /// Number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn touching_ranges_become_one_and_a_hole_splits_one_in_two() {
        let mut set = RangeSet::default();
        set.insert(0..4);
        set.insert(8..12);
        set.insert(4..8);
        assert_eq!(set, RangeSet::whole(12));
        set.remove(5..6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0..5, 6..12]);
        assert_eq!(set.run_end(0), 5);
        assert_eq!(set.run_end(5), 5);
        assert_eq!(set.within(3..8), [3..5, 6..8]);
    }

    proptest! {
        #[test]
        fn a_range_set_holds_what_a_plain_set_of_bytes_would(
            steps in proptest::collection::vec((any::<bool>(), 0u64..48, 0u64..16), 0..40),
            (from, length) in (0u64..48, 0u64..16),
        ) {
            let (mut set, mut plain) = (RangeSet::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                if add {
                    set.insert(range.clone());
                    plain.extend(range);
                } else {
                    set.remove(range.clone());
                    plain.retain(|byte| !range.contains(byte));
                }
            }
            let flat: BTreeSet<u64> = set.iter().flatten().collect();
            prop_assert_eq!(&flat, &plain);
            prop_assert_eq!(set.bytes(), plain.len() as u64);
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let window = from..from + length;
            let inside: Vec<u64> = set.within(window.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = plain.iter().copied().filter(|b| window.contains(b)).collect();
            prop_assert_eq!(inside, expected);
            let mut run = from;
            while plain.contains(&run) { run += 1; }
            prop_assert_eq!(set.run_end(from), run);
        }
    }
}
