//! Small sets and queues that are copied and hashed quickly.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

/// A set of numbers below eight. Printed as the outbox ids that they stand for, which begin at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Set(pub u8);

impl Set {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// The set of one.
    pub fn of(n: u8) -> Self {
        Self(1 << n)
    }
    /// All below `n`.
    pub fn below(n: u8) -> Self {
        Self(((1_u16 << n) - 1) as u8)
    }
    /// Is it in?
    pub fn has(self, n: u8) -> bool {
        self.0 & (1 << n) != 0
    }
    /// Puts it in.
    pub fn add(&mut self, n: u8) {
        self.0 |= 1 << n;
    }
    /// Takes it out.
    pub fn remove(&mut self, n: u8) {
        self.0 &= !(1 << n);
    }
    /// In either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// In both.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// In this one only.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Nothing in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many.
    pub fn len(self) -> u8 {
        self.0.count_ones() as u8
    }
    /// Above all that is in it; zero when nothing is.
    pub fn end(self) -> u8 {
        (8 - self.0.leading_zeros()) as u8
    }
    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |n| self.has(*n))
    }
}

impl FromIterator<u8> for Set {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Self {
        let mut set = Self::EMPTY;
        for n in numbers {
            set.add(n);
        }
        set
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|n| n + 1)).finish()
    }
}

/// First in, first out; at most `N`. What is not used is zero, so that equal queues are equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue<const N: usize> {
    len: u8,
    items: [u8; N],
}

/// In one word, with the number of items where it has room for it: a state has thirty queues.
impl<const N: usize> Hash for Queue<N> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        const { assert!(N <= 8, "a word holds eight items") };
        if N == 8 {
            hasher.write_u8(self.len);
        }
        let items = self.items.iter();
        hasher.write_u64(items.fold(u64::from(self.len), |word, item| word << 8 | u64::from(*item)));
    }
}

impl<const N: usize> Default for Queue<N> {
    fn default() -> Self {
        Self { len: 0, items: [0; N] }
    }
}

impl<const N: usize> Queue<N> {
    /// At the end. Panics when it is full: the scope is too wide for this model.
    pub fn push(&mut self, item: u8) {
        assert!((self.len as usize) < N, "a queue of {N} is full");
        self.items[self.len as usize] = item;
        self.len += 1;
    }
    /// The first.
    pub fn front(&self) -> Option<u8> {
        self.iter().next()
    }
    /// Takes the first.
    pub fn pop(&mut self) -> Option<u8> {
        let first = self.front()?;
        self.cut_front(1);
        Some(first)
    }
    /// Forgets the first `n`.
    pub fn cut_front(&mut self, n: u8) {
        self.items.copy_within(n as usize.., 0);
        self.len -= n;
        self.items[self.len as usize..].fill(0);
    }
    /// Forgets the last.
    pub fn cut_back(&mut self) {
        self.len -= 1;
        self.items[self.len as usize] = 0;
    }
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.items[..self.len as usize].iter().copied()
    }
    /// In order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut u8> {
        self.items[..self.len as usize].iter_mut()
    }
    /// How many.
    pub fn len(&self) -> u8 {
        self.len
    }
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;

    #[test]
    fn a_set_is_a_set() {
        let mut set: Set = [0, 2, 5].into_iter().collect();
        assert_eq!((set.len(), set.end(), Set::EMPTY.end()), (3, 6, 0));
        set.remove(5);
        assert_eq!(set.and(Set::of(1)), Set::below(3));
        assert_eq!(set.without(Set::of(0)), Set::of(2));
        assert_eq!(format!("{set:?}"), "{1, 3}");
    }

    #[test]
    fn queues_that_differ_in_zeros_have_different_hashes() {
        fn hash<const N: usize>(zeros: usize) -> u64 {
            let mut queue = Queue::<N>::default();
            (0..zeros).for_each(|_| queue.push(0));
            let mut hasher = DefaultHasher::new();
            queue.hash(&mut hasher);
            hasher.finish()
        }
        assert_ne!(hash::<4>(0), hash::<4>(1));
        assert_ne!(hash::<8>(7), hash::<8>(8));
    }

    #[test]
    fn queues_with_the_same_items_are_equal_whatever_was_in_them() {
        let mut queue = Queue::<4>::default();
        for item in [7, 8, 9] {
            queue.push(item);
        }
        assert_eq!(queue.pop(), Some(7));
        queue.cut_back();
        let mut other = Queue::default();
        other.push(8);
        assert_eq!(queue, other);
    }
}
