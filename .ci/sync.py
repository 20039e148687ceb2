#!/usr/bin/env python
"""Check that everything generated is what its source says, without touching the working tree.

On a copy of the tree: links, nbdev_clean, nbdev_export and README.md. Exit 1 with the differences
when any of them changes a file; `make links clean export readme` is then what is missing.
"""
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from house import ROOT

SHOWN = 20  # lines of each difference
HAND_WRITTEN = {"__init__.py"}  # in tld/; every other module must come from a notebook


def tree_files(root: Path) -> list[str]:
    "Tracked files and new ones that git does not ignore."
    # safe.directory: a build machine may run as another user than the owner of the files.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
               "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in names.split("\0") if name and (root / name).is_file()]


def copy_tree(root: Path, to: Path) -> None:
    for name in tree_files(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, to / name)


def regenerate(root: Path) -> None:
    "Run every generator of the copy at `root` on it."
    for module in (root / "tld").glob("*.py"):
        if module.name not in HAND_WRITTEN:
            module.unlink()  # a module whose notebook is gone must not come back
    bin = Path(sys.executable).parent
    env = {name: value for name, value in os.environ.items() if name != "IN_TEST"}
    for command in (
        [sys.executable, ".ci/links.py"],
        [bin / "nbdev_clean"],
        [bin / "nbdev_export"],
        [sys.executable, ".ci/readme.py"],
    ):
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command[-1]} failed:\n{done.stdout}{done.stderr}")


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def differences(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    "One text per file that is not the same in both."
    texts = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old is None or new is None:
            texts.append(f"{name}: " + ("no notebook makes it" if new is None else "is missing"))
            continue
        lines = [side.decode(errors="replace").splitlines() for side in (old, new)]
        diff = list(difflib.unified_diff(*lines, name, f"{name} (regenerated)", n=1, lineterm=""))
        more = [f"... {len(diff) - SHOWN} more lines"] if len(diff) > SHOWN else []
        texts.append("\n".join(line[:160] for line in diff[:SHOWN] + more))
    return texts


def check(root: Path) -> list[str]:
    "The differences that regenerating a copy of `root` makes."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_tree(root, copy)
        before = contents(copy)
        regenerate(copy)
        return differences(before, contents(copy))


def main() -> int:
    texts = check(ROOT)
    print("\n\n".join(texts) if texts else "in sync")
    if texts:
        print("\nrun: make links clean export readme")
    return int(bool(texts))


if __name__ == "__main__":
    sys.exit(main())
