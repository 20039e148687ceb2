#!/usr/bin/env python
"""Check that all that is generated is what its source says, without touching the working tree.

Runs `make regenerate` on a copy of the tree; exits 1 with the differences when that changes a file.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from house import ROOT


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


def check(root: Path) -> str:
    "The differences that regenerating a copy of `root` makes."
    with tempfile.TemporaryDirectory() as folder:
        tree, regenerated = Path(folder, "tree"), Path(folder, "regenerated")
        copy_tree(root, tree)
        shutil.copytree(tree, regenerated)
        for module in (regenerated / "tld").rglob("*.py"):
            module.unlink()  # a module whose notebook is gone must not come back
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("IN_TEST", None)  # under nbdev_test, nbdev_export does nothing
        command = ["make", "--assume-old=.venv/.dev", f"BIN={Path(sys.executable).parent}",
                   "regenerate"]
        done = subprocess.run(command, cwd=regenerated, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        diff = ["git", "diff", "--no-index", "--no-prefix", "-U1", tree.name, regenerated.name]
        return subprocess.run(diff, cwd=folder, capture_output=True, text=True).stdout


if __name__ == "__main__":
    lines = check(ROOT).splitlines()
    print("\n".join(line[:160] for line in lines[:400]) or "in sync")
    sys.exit(f"{len(lines)} lines of differences: run `make regenerate`" if lines else 0)
