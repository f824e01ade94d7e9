//! A sorted map from paths to small values that stays compact with millions of paths.
//!
//! Neighbours in byte order lie together in blocks of at most [`BLOCK_ENTRIES`]. Within a block
//! each path says how many bytes it has in common with the one before and then only its own
//! rest; the values lie in one array beside them. Each block knows the sum of its values, so that
//! whoever looks for some of them passes over blocks that have none.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::ops::{Bound, ControlFlow};

use shoal_wire::SafePath;

/// Paths in one block, at most: few allocations for many paths, and a short walk to each.
const BLOCK_ENTRIES: usize = 128;

/// What can lie at a path.
pub(super) trait Value: Copy {
    /// What a block knows of all its values together.
    type Sum: Default + fmt::Debug;
    /// Counts this value in.
    fn add_to(&self, sum: &mut Self::Sum);
}

/// Paths in byte order, each with a value.
#[derive(Debug)]
pub(super) struct PathMap<V: Value> {
    /// By a bound: no path in the block lies below it, and none before the next bound elsewhere.
    blocks: BTreeMap<Box<[u8]>, Block<V>>,
    len: usize,
}

#[derive(Debug)]
struct Block<V: Value> {
    /// For each path: bytes in common with the one before, bytes of the rest, the rest.
    paths: Box<[u8]>,
    values: Box<[V]>,
    sum: V::Sum,
}

impl<V: Value> Default for PathMap<V> {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<V: Value> PathMap<V> {
    /// How many paths there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value at a path.
    pub(super) fn get(&self, path: &SafePath) -> Option<V> {
        let (_, block) = self.blocks.range::<[u8], _>(up_to(path)).next_back()?;
        let at = block.position(path.as_bytes())?;
        block.values.get(at).copied()
    }

    /// Changes the value at a path; `None` where there is none.
    pub(super) fn update<T>(
        &mut self,
        path: &SafePath,
        change: impl FnOnce(&mut V) -> T,
    ) -> Option<T> {
        let (_, block) = self.blocks.range_mut::<[u8], _>(up_to(path)).next_back()?;
        let at = block.position(path.as_bytes())?;
        let outcome = change(block.values.get_mut(at)?);
        block.sum_up();
        Some(outcome)
    }

    /// Puts a value at each of `items`, which are in ascending order: `make` gets the item and
    /// what is there already.
    pub(super) fn put_all<T>(
        &mut self,
        items: &[(SafePath, T)],
        mut make: impl FnMut(&T, Option<&V>) -> V,
    ) {
        let mut rest = items;
        while let Some((first, _)) = rest.first() {
            let bound: Box<[u8]> = match self.blocks.range::<[u8], _>(up_to(first)).next_back() {
                Some((bound, _)) => bound.clone(),
                None => Box::default(),
            };
            let behind = (Bound::Excluded(&*bound), Bound::Unbounded);
            let next = self.blocks.range::<[u8], _>(behind).next();
            let here = next.map_or(rest.len(), |(next, _)| {
                rest.partition_point(|(path, _)| path.as_bytes() < &**next)
            });
            let (here, later) = rest.split_at(here.max(1));
            rest = later;
            let old = self.blocks.remove(&bound);
            self.len -= old.as_ref().map_or(0, |block| block.values.len());
            self.store(bound, &merged(old.as_ref(), here, &mut make));
        }
    }

    /// Takes a path out. Tells whether it was there.
    pub(super) fn remove(&mut self, path: &SafePath) -> bool {
        let Some((bound, block)) = self.blocks.range::<[u8], _>(up_to(path)).next_back() else {
            return false;
        };
        let Some(at) = block.position(path.as_bytes()) else {
            return false;
        };
        let bound = bound.clone();
        let mut position = 0;
        self.rebuild(&bound, |_| {
            position += 1;
            position - 1 != at
        });
        true
    }

    /// Looks at every value of the blocks whose sum is wanted, changes them, and takes out those
    /// for which `keep` says no.
    pub(super) fn retain(
        &mut self,
        wanted: impl Fn(&V::Sum) -> bool,
        mut keep: impl FnMut(&mut V) -> bool,
    ) {
        let mut thinned = Vec::new();
        for (bound, block) in &mut self.blocks {
            if !wanted(&block.sum) {
                continue;
            }
            let kept: Vec<bool> = block.values.iter_mut().map(&mut keep).collect();
            block.sum_up();
            if kept.contains(&false) {
                thinned.push((bound.clone(), kept));
            }
        }
        for (bound, kept) in thinned {
            let mut kept = kept.into_iter();
            self.rebuild(&bound, |_| kept.next().unwrap_or(true));
        }
    }

    /// Visits paths and values in ascending order from `start` on, in the blocks whose sum is
    /// wanted, until `visit` breaks.
    pub(super) fn visit<T>(
        &self,
        start: Bound<&[u8]>,
        wanted: impl Fn(&V::Sum) -> bool,
        mut visit: impl FnMut(&[u8], &V) -> ControlFlow<T>,
    ) -> Option<T> {
        let is_before = |path: &[u8]| match start {
            Bound::Included(start) => path < start,
            Bound::Excluded(start) => path <= start,
            Bound::Unbounded => false,
        };
        let (Bound::Included(from) | Bound::Excluded(from)) = start else {
            return visit_blocks(self.blocks.values(), wanted, visit);
        };
        let first = self
            .blocks
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(from)))
            .next_back();
        let begin = first.map_or(Bound::Unbounded, |(bound, _)| Bound::Included(&**bound));
        let blocks = self.blocks.range::<[u8], _>((begin, Bound::Unbounded));
        visit_blocks(blocks.map(|(_, block)| block), wanted, |path, value| {
            if is_before(path) {
                ControlFlow::Continue(())
            } else {
                visit(path, value)
            }
        })
    }

    /// Leaves in a block what `keep` says.
    fn rebuild(&mut self, bound: &[u8], mut keep: impl FnMut(&V) -> bool) {
        let Some(block) = self.blocks.remove(bound) else {
            return;
        };
        self.len -= block.values.len();
        let mut left = Entries::default();
        block.for_each(|path, value| {
            if keep(value) {
                left.push(path, *value);
            }
        });
        self.store(bound.into(), &left);
    }

    /// Stores entries that belong behind `bound` in as many blocks as they need.
    fn store(&mut self, bound: Box<[u8]>, entries: &Entries<V>) {
        let count = entries.values.len();
        if count == 0 {
            return;
        }
        self.len += count;
        let each = count.div_ceil(count.div_ceil(BLOCK_ENTRIES));
        let mut bound = Some(bound);
        for start in (0..count).step_by(each) {
            let end = (start + each).min(count);
            let bound = bound.take().unwrap_or_else(|| entries.path(start).into());
            self.blocks.insert(bound, entries.block(start, end));
        }
    }
}

fn up_to(path: &SafePath) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(path.as_bytes()))
}

fn visit_blocks<'a, V: Value + 'a, T>(
    blocks: impl Iterator<Item = &'a Block<V>>,
    wanted: impl Fn(&V::Sum) -> bool,
    mut visit: impl FnMut(&[u8], &V) -> ControlFlow<T>,
) -> Option<T> {
    for block in blocks.filter(|block| wanted(&block.sum)) {
        if let ControlFlow::Break(outcome) = block.try_for_each(&mut visit) {
            return Some(outcome);
        }
    }
    None
}

impl<V: Value> Block<V> {
    fn try_for_each<T>(
        &self,
        mut visit: impl FnMut(&[u8], &V) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        let mut path = Vec::new();
        let mut rest = &*self.paths;
        for value in &self.values {
            rest = read_path(rest, &mut path);
            visit(&path, value)?;
        }
        ControlFlow::Continue(())
    }

    fn for_each(&self, mut visit: impl FnMut(&[u8], &V)) {
        let ControlFlow::Continue(()) = self.try_for_each(|path, value| {
            visit(path, value);
            ControlFlow::<Infallible>::Continue(())
        });
    }

    /// Where a path is among them, found without putting any path together: all that counts is
    /// how much each has in common with the wanted one.
    fn position(&self, wanted: &[u8]) -> Option<usize> {
        let (mut rest, mut matched) = (&*self.paths, 0);
        for at in 0..self.values.len() {
            let (common, bytes) = read_number(rest);
            let (len, bytes) = read_number(bytes);
            let (own, behind) = bytes.split_at(len);
            rest = behind;
            match common.cmp(&matched) {
                // It differs from the wanted one where the path before did.
                Ordering::Greater => continue,
                // It is past the wanted one, with which the path before had more in common.
                Ordering::Less => return None,
                Ordering::Equal => {}
            }
            let left = &wanted[matched..];
            let same = own.iter().zip(left).take_while(|(a, b)| a == b).count();
            match (own.get(same), left.get(same)) {
                (None, None) => return Some(at),
                (Some(own), Some(left)) if own > left => return None,
                (Some(_), None) => return None,
                (Some(_) | None, Some(_)) => matched += same,
            }
        }
        None
    }

    fn sum_up(&mut self) {
        self.sum = sum_of(&self.values);
    }
}

fn sum_of<V: Value>(values: &[V]) -> V::Sum {
    let mut sum = V::Sum::default();
    values.iter().for_each(|value| value.add_to(&mut sum));
    sum
}

/// The entries of a block, or of several to be, as they are.
struct Entries<V> {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    values: Vec<V>,
}

impl<V> Default for Entries<V> {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<V: Value> Entries<V> {
    fn push(&mut self, path: &[u8], value: V) {
        self.bytes.extend_from_slice(path);
        self.ends.push(self.bytes.len());
        self.values.push(value);
    }

    fn path(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[at]]
    }

    fn block(&self, start: usize, end: usize) -> Block<V> {
        let mut paths = Vec::new();
        let mut before: &[u8] = &[];
        for at in start..end {
            let path = self.path(at);
            write_path(before, path, &mut paths);
            before = path;
        }
        let values = &self.values[start..end];
        Block {
            paths: paths.into(),
            values: values.into(),
            sum: sum_of(values),
        }
    }
}

/// What a block has once `items` are put into it.
fn merged<V: Value, T>(
    old: Option<&Block<V>>,
    items: &[(SafePath, T)],
    make: &mut impl FnMut(&T, Option<&V>) -> V,
) -> Entries<V> {
    let mut entries = Entries::default();
    let mut items = items.iter().peekable();
    if let Some(old) = old {
        old.for_each(|path, value| {
            while let Some((new, item)) = items.next_if(|(new, _)| new.as_bytes() < path) {
                entries.push(new.as_bytes(), make(item, None));
            }
            match items.next_if(|(new, _)| new.as_bytes() == path) {
                Some((_, item)) => entries.push(path, make(item, Some(value))),
                None => entries.push(path, *value),
            }
        });
    }
    for (new, item) in items {
        entries.push(new.as_bytes(), make(item, None));
    }
    entries
}

fn write_path(before: &[u8], path: &[u8], into: &mut Vec<u8>) {
    let pairs = before.iter().zip(path);
    let common = pairs.take_while(|(a, b)| a == b).count();
    write_number(common, into);
    write_number(path.len() - common, into);
    into.extend_from_slice(&path[common..]);
}

/// Turns the path before into the next one, and gives what lies behind it.
fn read_path<'a>(bytes: &'a [u8], path: &mut Vec<u8>) -> &'a [u8] {
    let (common, bytes) = read_number(bytes);
    let (len, bytes) = read_number(bytes);
    let (rest, behind) = bytes.split_at(len);
    path.truncate(common);
    path.extend_from_slice(rest);
    behind
}

/// One byte where it fits below 128, as it does for nearly every name; else two, the first with
/// its highest bit set. Paths are far shorter than 32 KiB.
fn write_number(number: usize, into: &mut Vec<u8>) {
    if number < 0x80 {
        into.push(number as u8);
    } else {
        into.extend([0x80 | (number >> 8) as u8, number as u8]);
    }
}

fn read_number(bytes: &[u8]) -> (usize, &[u8]) {
    match bytes {
        [first, rest @ ..] if *first < 0x80 => (usize::from(*first), rest),
        [first, second, rest @ ..] => {
            let high = usize::from(first & 0x7f);
            (high << 8 | usize::from(*second), rest)
        }
        _ => (0, bytes),
    }
}

#[cfg(test)]
mod tests;
