"""The data that is transferred: generated from a seed, compared after each run."""

import filecmp
import os
import random
import subprocess

from .measure import Failed


def large(folder, size_bytes):
    """One file that does not compress and has no holes."""
    folder.mkdir(parents=True)
    with open(folder / "large.bin", "wb") as file:
        left = size_bytes
        while left:
            left -= file.write(os.urandom(min(left, 8 << 20)))
    return "large.bin", size_bytes


def tree(folder, count, sizes):
    """Many files of random sizes, 100 to a folder."""
    draw = random.Random(1)
    block = os.urandom(max(sizes) + 4096)
    total = 0
    for at in range(count):
        parent = folder / "tree" / f"{at // 10_000:02}" / f"{at // 100 % 100:02}"
        if at % 100 == 0:
            parent.mkdir(parents=True)
        size = draw.randint(*sizes)
        start = draw.randrange(4096)
        # The number makes every file's content its own.
        content = at.to_bytes(8, "big") + block[start:start + size - 8]
        (parent / f"file-{at:06}.bin").write_bytes(content)
        total += size
    return "tree", total


def compare(source, got):
    """Raises unless both are the same: names and bytes."""
    if not got.exists():
        raise Failed(f"{got.name} is not there")
    if source.is_file():
        if subprocess.run(["cmp", "-s", source, got]).returncode != 0:
            raise Failed(f"{got.name} differs")
        return
    seen = 0
    for parent, _, names in os.walk(source):
        other = got / os.path.relpath(parent, source)
        _, differing, missing = filecmp.cmpfiles(parent, other, names, shallow=False)
        if differing or missing:
            raise Failed(f"{(differing + missing)[0]} differs or is missing")
        seen += len(names)
    extra = sum(len(names) for _, _, names in os.walk(got)) - seen
    if extra:
        raise Failed(f"{extra} files too many")
