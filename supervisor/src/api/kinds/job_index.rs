//! Sets of the indexes of an indexed Job, as its status writes them: `1,3-5,7`.

use std::fmt;

/// Ranges, first and last index of each, in their order; none touches another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// # Errors
    /// What is wrong with a text that is not indexes and ranges below `completions`, each greater than the one before.
    pub fn parse(text: &str, completions: i64) -> Result<Self, String> {
        let mut indexes = Self::default();
        let mut previous = -1;
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first <= previous {
                return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
            }
            if part.contains('-') && last <= first {
                return Err(format!("non-increasing order, previous: {first}, current: {last}"));
            }
            if last >= completions {
                return Err(format!("too large index: {part:?}"));
            }
            indexes.push(first, last);
            previous = last;
        }
        Ok(indexes)
    }

    /// Those of a status, which anybody may have written: what cannot be read is none.
    pub fn read(text: &str, completions: i64) -> Self {
        let mut indexes =
            if text.is_empty() { Self::default() } else { Self::parse(text, i64::MAX).unwrap_or_default() };
        indexes.0.retain(|(first, _)| *first < completions);
        if let Some((_, last)) = indexes.0.last_mut() {
            *last = (*last).min(completions - 1);
        }
        indexes
    }

    /// Adds a range that begins after all others.
    fn push(&mut self, first: i64, last: i64) {
        match self.0.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.0.push((first, last)),
        }
    }

    pub fn contains(&self, index: i64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && index <= self.0[after - 1].1
    }

    /// False if it was there.
    pub fn insert(&mut self, index: i64) -> bool {
        if self.contains(index) {
            return false;
        }
        let at = self.0.partition_point(|(first, _)| *first <= index);
        let joins_before = at > 0 && self.0[at - 1].1 + 1 == index;
        let joins_after = self.0.get(at).is_some_and(|(first, _)| index + 1 == *first);
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = index,
            (false, true) => self.0[at].0 = index,
            (false, false) => self.0.insert(at, (index, index)),
        }
        true
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<(i64, i64)> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut union: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match union.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => union.push((first, last)),
            }
        }
        Self(union)
    }

    pub fn count(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many are in both.
    pub fn count_common(&self, other: &Self) -> i64 {
        let overlap = |(a, b): &(i64, i64), (c, d): &(i64, i64)| (b.min(d) - a.max(c) + 1).max(0);
        let (mut one, mut two) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = 0;
        while let (Some(a), Some(b)) = (one.peek(), two.peek()) {
            common += overlap(a, b);
            if a.1 < b.1 {
                one.next()
            } else {
                two.next()
            };
        }
        common
    }

    /// Those below `completions` that are not in it, from the least on.
    pub fn gaps(&self, completions: i64) -> impl Iterator<Item = i64> + '_ {
        let begins = std::iter::once(0).chain(self.0.iter().map(|(_, last)| last + 1));
        let ends = self.0.iter().map(|(first, _)| *first).chain([i64::MAX]);
        begins.zip(ends).flat_map(move |(begin, end)| begin..end.min(completions))
    }
}

fn number(text: &str) -> Result<i64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i32>().ok().filter(|_| digits);
    number.map(i64::from).ok_or_else(|| format!("cannot convert string to integer for index: {text:?}"))
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        let mut indexes = Indexes::default();
        for index in [7, 3, 5, 4, 0, 9, 8] {
            assert!(indexes.insert(index));
        }
        assert!(!indexes.insert(4));
        assert_eq!(indexes.to_string(), "0,3-5,7-9");
        assert_eq!(Indexes::parse("0,3-5,7-9", 10).unwrap(), indexes);
        assert_eq!((indexes.count(), indexes.contains(4), indexes.contains(6)), (7, true, false));
        indexes.insert(1);
        assert_eq!(indexes.to_string(), "0,1,3-5,7-9");
        assert_eq!(indexes.gaps(12).collect::<Vec<_>>(), [2, 6, 10, 11]);
        assert_eq!(Indexes::default().gaps(2).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn common_indexes_are_counted() {
        let of = |text: &str| Indexes::read(text, 100);
        for (one, two, common) in
            [("0-9", "5-14", 5), ("0,2,4", "1,3,5", 0), ("0-3,6-9", "2-7", 4), ("", "1", 0), ("0-9", "1,3,8-20", 4)]
        {
            assert_eq!(
                (of(one).count_common(&of(two)), of(two).count_common(&of(one))),
                (common, common),
                "{one} {two}"
            );
            let union = of(one).union(&of(two));
            assert_eq!(union.count(), of(one).count() + of(two).count() - common);
            assert_eq!(of(&union.to_string()), union);
        }
    }

    #[test]
    fn what_is_no_set_of_indexes_is_refused_and_counts_for_nothing() {
        for wrong in ["", "a", "1,", "-1", "1-", "1-1", "3-2", "2,1", "1,1", "1-2-3", "+1", "10", "5-10", "99999999999"]
        {
            assert!(Indexes::parse(wrong, 10).is_err(), "{wrong}");
        }
        assert_eq!(Indexes::read("x", 10), Indexes::default());
        // Of a Job that has fewer completions since.
        assert_eq!(Indexes::read("1,3-9,12", 5).to_string(), "1,3,4");
        assert_eq!(Indexes::read("1", 0), Indexes::default());
    }
}
