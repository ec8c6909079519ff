//! Sets of small integers as machine words: candidates that are still possible.

/// A set of integers below a fixed bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bits(Box<[u64]>);

impl Bits {
    /// No member; `len` is the bound.
    pub(crate) fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into_boxed_slice())
    }

    /// Every integer below `len`.
    pub(crate) fn all(len: usize) -> Self {
        let mut bits = Self(vec![u64::MAX; len.div_ceil(64)].into_boxed_slice());
        if !len.is_multiple_of(64)
            && let Some(last) = bits.0.last_mut()
        {
            *last = (1 << (len % 64)) - 1;
        }
        bits
    }

    pub(crate) fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(crate) fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    pub(crate) fn keep(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    pub(crate) fn drop_all(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= !other;
        }
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.0
    }

    /// Members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        members(self.0.iter().copied())
    }

    /// The least member of the intersection of this and `others`.
    pub(crate) fn first_of(&self, others: &[&Self]) -> Option<usize> {
        self.meet(others).next()
    }

    /// Members of the intersection of this and `others`, ascending.
    pub(crate) fn meet<'a>(&'a self, others: &'a [&'a Self]) -> impl Iterator<Item = usize> + 'a {
        members(self.0.iter().enumerate().map(move |(at, word)| {
            others
                .iter()
                .fold(*word, |word, other| word & other.words()[at])
        }))
    }
}

fn members(words: impl Iterator<Item = u64>) -> impl Iterator<Item = usize> {
    words.enumerate().flat_map(|(at, mut word)| {
        std::iter::from_fn(move || {
            (word != 0).then(|| {
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                at * 64 + bit
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn members_come_back_in_order_across_words() {
        let mut bits = Bits::none(200);
        for member in [199, 0, 64, 63, 130] {
            bits.insert(member);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 130, 199]);
        bits.remove(64);
        assert!(!bits.contains(64) && bits.contains(63));
    }

    #[test]
    fn all_has_nothing_beyond_the_bound() {
        for len in [0, 1, 63, 64, 65, 128] {
            assert_eq!(Bits::all(len).iter().count(), len);
        }
    }

    #[test]
    fn an_intersection_of_three_has_only_what_is_in_each() {
        let of = |members: &[usize]| {
            let mut bits = Bits::none(100);
            members.iter().for_each(|m| bits.insert(*m));
            bits
        };
        let (a, b, c) = (of(&[1, 2, 70, 80]), of(&[2, 70, 80]), of(&[70, 80, 99]));
        assert_eq!(a.meet(&[&b, &c]).collect::<Vec<_>>(), [70, 80]);
        assert_eq!(a.first_of(&[&b, &c]), Some(70));
        assert_eq!(a.first_of(&[]), Some(1));
    }
}
