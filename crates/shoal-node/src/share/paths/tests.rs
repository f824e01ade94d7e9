use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use proptest::prelude::*;
use shoal_wire::SafePath;

use super::*;

impl Value for u32 {
    type Sum = u64;

    fn add_to(&self, sum: &mut u64) {
        *sum += u64::from(*self);
    }
}

fn path(text: &str) -> SafePath {
    text.parse().expect("a path")
}

fn contents(map: &PathMap<u32>, start: Bound<&[u8]>) -> Vec<(Vec<u8>, u32)> {
    let mut found = Vec::new();
    let whole = map.visit(
        start,
        |_| true,
        |path, value| {
            found.push((path.to_vec(), *value));
            ControlFlow::<()>::Continue(())
        },
    );
    assert!(whole.is_none());
    found
}

fn expected(model: &BTreeMap<SafePath, u32>, start: Bound<SafePath>) -> Vec<(Vec<u8>, u32)> {
    let range = model.range((start, Bound::Unbounded));
    range
        .map(|(path, value)| (path.as_bytes().to_vec(), *value))
        .collect()
}

#[derive(Debug, Clone)]
enum Change {
    Put(Vec<(SafePath, u32)>),
    Remove(SafePath),
    Update(SafePath, u32),
    KeepBelow(u32),
}

/// Paths that share much and little, and that differ in bytes around the slash.
fn paths() -> impl Strategy<Value = SafePath> {
    "[ab!0]{1,3}(/[ab!0]{1,2}){0,3}|long{1,9}-[a-c]{1,140}/x".prop_map(|text| path(&text))
}

fn changes() -> impl Strategy<Value = Change> {
    let items = prop::collection::btree_map(paths(), 0..100_u32, 0..300);
    prop_oneof![
        items.prop_map(|items| Change::Put(items.into_iter().collect())),
        paths().prop_map(Change::Remove),
        (paths(), 0..100_u32).prop_map(|(path, value)| Change::Update(path, value)),
        (50..110_u32).prop_map(Change::KeepBelow),
    ]
}

proptest! {
    #[test]
    fn it_does_what_an_ordinary_map_does(
        script in prop::collection::vec(changes(), 1..12),
        from in paths(),
    ) {
        let (mut map, mut model) = (PathMap::default(), BTreeMap::new());
        for change in script {
            match change {
                Change::Put(items) => {
                    map.put_all(&items, |new, old: Option<&u32>| old.map_or(*new, |old| old.max(new) + 1));
                    for (path, new) in items {
                        let value = model.get(&path).map_or(new, |old| new.max(*old) + 1);
                        model.insert(path, value);
                    }
                }
                Change::Remove(path) => {
                    prop_assert_eq!(map.remove(&path), model.remove(&path).is_some());
                }
                Change::Update(path, value) => {
                    let before = map.update(&path, |held| std::mem::replace(held, value));
                    prop_assert_eq!(before, model.get_mut(&path).map(|held| std::mem::replace(held, value)));
                }
                Change::KeepBelow(bound) => {
                    map.retain(|_| true, |value| *value < bound);
                    model.retain(|_, value| *value < bound);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(contents(&map, Bound::Unbounded), expected(&model, Bound::Unbounded));
            prop_assert_eq!(
                contents(&map, Bound::Excluded(from.as_bytes())),
                expected(&model, Bound::Excluded(from.clone()))
            );
            prop_assert_eq!(
                contents(&map, Bound::Included(from.as_bytes())),
                expected(&model, Bound::Included(from.clone()))
            );
            prop_assert_eq!(map.get(&from), model.get(&from).copied());
        }
    }
}

#[test]
fn blocks_without_what_is_wanted_are_passed_over_also_after_changes() {
    let names = (0..1000).map(|number| (path(&format!("folder/{number:04}")), ()));
    let names: Vec<_> = names.collect();
    let mut map = PathMap::default();
    map.put_all(&names, |(), _| 0_u32);
    map.update(&path("folder/0777"), |value| *value = 5);
    let mut looked_at = 0;
    let found = map.visit(
        Bound::Unbounded,
        |sum| *sum > 0,
        |path, value| {
            looked_at += 1;
            match value {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(path.to_vec()),
            }
        },
    );
    assert_eq!(found.as_deref(), Some(b"folder/0777".as_slice()));
    assert!(looked_at <= BLOCK_ENTRIES);
}

#[test]
fn a_path_of_a_tree_costs_a_few_bytes_beside_its_value() {
    let names =
        (0..100_000).map(|at| (path(&format!("tree/{:04}/file-{at:07}.txt", at / 1000)), ()));
    let names: Vec<_> = names.collect();
    let mut map = PathMap::default();
    map.put_all(&names, |(), _| 0_u32);
    let bytes: usize = map.blocks.values().map(|block| block.paths.len()).sum();
    assert!(bytes < 16 * names.len(), "{bytes}");
}
