//! A disk that is full at the start, becomes full in the middle, or fills up under small files:
//! a clear error with its code, nothing wrong under a final name, and the same command goes on.
//!
//! The disks are small ones in memory, mounted for one shell only; where mounting is not allowed
//! these tests have nothing to show, say so and end at once.

mod support;

use std::process::Command;

use support::disk::skipped;
use support::{Ended, World, noise};

/// Fails where a step of a script fails; `get` keeps its exit code in `$code`.
const PRELUDE: &str = r#"
shoal=$1 join=$2
get() { code=0; "$shoal" --json get "$@" -o got --join "$join" >out 2>err || code=$?; }
expect() { [ "$code" = "$1" ] || { echo "code $code, not $1"; cat out err; exit 99; }; }
"#;

#[test]
fn a_file_that_does_not_fit_is_refused_before_a_byte_of_it_is_written() {
    let world = World::new();
    world.write("anna", "big.bin", noise(6 << 20, 1));
    in_small_disk(
        &world,
        r#"
mount -t tmpfs -o size=4m none got
get big.bin; expect 10
grep -q "make room" out
[ -z "$(ls -A got)" ]
mount -o remount,size=16m got
get big.bin; expect 0
cmp got/big.bin anna/files/big.bin
"#,
    );
}

#[test]
fn a_disk_that_fills_up_during_a_fetch_keeps_what_is_verified_and_the_next_one_goes_on() {
    let world = World::new();
    world.write("anna", "big.bin", noise(24 << 20, 2));
    in_small_disk(
        &world,
        r#"
mount -t tmpfs -o size=40m none got
kilobytes() { if [ -e got/.big.bin.shoal-part ]; then du -k got/.big.bin.shoal-part | cut -f1; else echo 0; fi; }
get big.bin --down 8M & getting=$!
while [ "$(kilobytes)" -lt 13312 ]; do kill -0 $getting; done
dd if=/dev/zero of=got/filler bs=64k 2>/dev/null || true
wait $getting || true
grep -q '"code":10' out || { cat out err; exit 98; }
[ ! -e got/big.bin ] && [ -e got/.big.bin.shoal-part ]
rm got/filler
get big.bin; expect 0
cmp got/big.bin anna/files/big.bin
[ "$(ls -A got)" = big.bin ]
received=$(sed -n 's/.*"bytes":\([0-9]*\).*"event":"done".*/\1/p' out)
[ "$received" -lt 25165824 ] || { echo "nothing was kept: $received"; exit 97; }
"#,
    );
}

#[test]
fn a_disk_that_fills_up_in_the_first_moment_still_records_what_is_verified() {
    let world = World::new();
    world.write("anna", "big.bin", noise(24 << 20, 3));
    in_small_disk(
        &world,
        r#"
mount -t tmpfs -o size=40m none got
kilobytes() { if [ -e got/.big.bin.shoal-part ]; then du -k got/.big.bin.shoal-part | cut -f1; else echo 0; fi; }
get big.bin --down 8M & getting=$!
while [ "$(kilobytes)" -lt 2048 ]; do kill -0 $getting; done
dd if=/dev/zero of=got/filler bs=64k 2>/dev/null || true
wait $getting || true
grep -q '"code":10' out || { cat out err; exit 98; }
state=$(stat -c %s got/.big.bin.shoal-state)
[ "$state" -ge 176 ] || { echo "nothing is recorded: $state"; exit 97; }
rm got/filler
get big.bin; expect 0
cmp got/big.bin anna/files/big.bin
"#,
    );
}

#[test]
fn a_disk_that_fills_up_under_small_files_leaves_whole_ones_and_the_next_fetch_brings_the_rest() {
    let world = World::new();
    for number in 0..400_u64 {
        world.write("anna", &format!("set/{number}"), noise(9_000, number));
    }
    in_small_disk(
        &world,
        r#"
mount -t tmpfs -o size=2m none got
get anna:set; expect 10
for file in got/set/*; do [ ! -e "$file" ] || cmp "$file" "anna/files/set/${file##*/}"; done
mount -o remount,size=16m got
get anna:set; expect 0
diff -r got/set anna/files/set
[ "$(ls -A got)" = set ]
"#,
    );
}

#[test]
fn a_disk_that_is_out_of_names_is_told_from_a_full_one_and_the_next_fetch_brings_the_rest() {
    let world = World::new();
    for number in 0..60_u64 {
        world.write("anna", &format!("set/{number}"), noise(9_000, number));
    }
    world.write("anna", "big.bin", noise(12 << 20, 99));
    in_small_disk(
        &world,
        r#"
mount -t tmpfs -o size=64m,nr_inodes=30 none got
get anna:set; expect 10
grep -q "out of file names" out
mount -o remount,nr_inodes=100 got
get anna:set; expect 0
diff -r got/set anna/files/set
[ "$(ls -A got)" = set ]
umount got

mount -t tmpfs -o size=64m,nr_inodes=1 none got
get big.bin; expect 10
grep -q "out of file names" out
mount -o remount,nr_inodes=2 got
get big.bin; expect 10
mount -o remount,nr_inodes=10 got
get big.bin; expect 0
cmp got/big.bin anna/files/big.bin
"#,
    );
}

/// Runs a script in a mount namespace of its own, with a server and anna outside.
fn in_small_disk(world: &World, script: &str) {
    let mut probe = Command::new("unshare");
    let may_mount = probe.args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    if !may_mount.status().is_ok_and(|status| status.success()) {
        return skipped("only root may mount a disk, and not everywhere");
    }
    let server = world.server();
    let _anna = world.peer("anna", &server);
    std::fs::create_dir(world.path("got")).expect("make a folder");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "-p", "--fork", "--kill-child", "sh", "-euc"])
        .arg(format!("{PRELUDE}{script}"))
        .args(["sh", env!("CARGO_BIN_EXE_shoal"), &server.join])
        .env("HOME", world.path(""))
        .current_dir(world.path(""));
    Ended::of(&mut command).expect(0);
}
