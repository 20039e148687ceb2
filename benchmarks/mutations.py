"""Do the notebooks' tests notice a wrong line? python benchmarks/mutations.py [--only MODULE]

Draws mutations of functions from a seed (a sign, a comparison, swapped arguments, a term or keyword
dropped, another constant, a negated condition), evenly over modules, then kinds. For each, runs the
module's notebook and its appendix as `nbdev_test` does, with TLD_TINY, in a copy of the repository
with that change, made in the module and in the notebook's exported cell. mutations.json, written
after each run, is the ledger: what is in it is run again when the module changes, survivors also
when the notebooks change. The exit status is 1 while a survivor is not in EQUIVALENT.
"""
import argparse
import ast
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tld.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".json")
MODULES = ("noise_schedules cumulative vdm transformer_blocks denoiser sampling sampling_parts fit "
           "generator").split()
EQUIVALENT = {   # a survivor, as the ledger names it: why no test can notice
    "fit.draw_noise: config.seed, step, n=n + 1) generator = torch.G -> "
    "config.seed, step, n=n + 2) generator = torch.G":
        "one more seed is drawn, after those used; SeedSequence gives the same first ones",
}

SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
SYMMETRIC = {"min", "max", "torch.minimum", "torch.maximum"}   # no matter in which order
SMALL = {"TLD_TINY": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


class Mutation(NamedTuple):
    module: str
    function: str
    line: int            # of the module
    kind: str
    before: str          # where they differ, and a little around it
    after: str
    cell: str = ""       # the id of the notebook's cell, ...
    body: str = ""       # ... its code, ...
    changed: str = ""    # ... and the code with the mutation

    def __str__(self):
        return f"{self.module}.{self.function}: {self.before} -> {self.after}"


# ---- what can be changed ----

def functions(node: ast.AST, name: str = "", inside: bool = False) -> Iterator[tuple[ast.AST, str]]:
    "The nodes of functions and these functions' names; no annotations, decorators, messages, bars."
    if isinstance(node, (ast.Raise, ast.JoinedStr)):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm":
        node = node.args[0]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        name = f"{name}.{node.name}".strip(".")
    inside |= isinstance(node, (ast.FunctionDef, ast.Lambda))
    if inside:
        yield node, name or "lambda"
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from functions(child, name, inside)


def mistakes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    "What can be wrong at a node: the kind, the node to replace, and what by."
    def but(**fields):
        return type(node)(**{**dict(ast.iter_fields(node)), **fields})

    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
            yield "sign", node, but(op=SIGNS[type(op)]())
            yield "term", node, left
            if not isinstance(op, ast.Div):
                minus = isinstance(op, ast.Sub)
                yield "term", node, ast.UnaryOp(ast.USub(), right) if minus else right
        case ast.AugAssign(op=op) if type(op) in SIGNS:
            yield "sign", node, but(op=SIGNS[type(op)]())
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "sign", node, operand
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                if type(op) in EDGES:
                    yield "comparison", node, but(ops=[*ops[:i], EDGES[type(op)](), *ops[i + 1:]])
        case ast.Call(func=func, args=args, keywords=keywords):
            for i, (a, b) in enumerate(itertools.pairwise(args)):
                if ast.Starred not in (type(a), type(b)) and ast.unparse(func) not in SYMMETRIC:
                    yield "swap", node, but(args=[*args[:i], b, a, *args[i + 2:]])
            for i, keyword in enumerate(keywords):
                if keyword.arg:
                    yield "keyword", node, but(keywords=[*keywords[:i], *keywords[i + 1:]])
        case ast.Constant(value=value) if type(value) in (int, float):
            yield "constant", node, ast.Constant(value + 1)
            yield "constant", node, ast.Constant(value - 1 if type(value) is int else value / 2)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition", test, ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=[test, *_]):
            yield "condition", test, ast.UnaryOp(ast.Not(), test)


class Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def mutations(module: str, text: str) -> Iterator[Mutation]:
    "All mutations of a module, cell by cell."
    parts = re.split(r"^(# %% .+\.ipynb #\S+\n)", text, flags=re.MULTILINE)
    for i in range(1, len(parts), 2):
        above, cell = "".join(parts[:i + 1]).count("\n"), parts[i].split("#")[-1].strip()
        body, tree = parts[i + 1].strip(), ast.parse(parts[i + 1])
        for node, function in list(functions(tree)):
            for kind, old, new in mistakes(node):
                a = ast.unparse(tree)
                b = ast.unparse(Replace(old, new).visit(tree))
                Replace(new, old).visit(tree)
                if a != b:
                    start = len(os.path.commonprefix([a, b]))
                    end = len(os.path.commonprefix([a[start:][::-1], b[start:][::-1]]))
                    seen = [" ".join(code[max(start - 25, 0):len(code) - end + 25].split())
                            for code in (a, b)]
                    yield Mutation(module, function, above + old.lineno, kind, *seen,
                                   cell, body, b)


def spread(items: list, group) -> list:
    "The first of each group, then the second of each ..."
    seen, ranks = Counter(), []
    for item in items:
        ranks.append(seen[group(item)])
        seen[group(item)] += 1
    return [items[i] for i in sorted(range(len(items)), key=ranks.__getitem__)]


def digest(*parts) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def draw(texts: dict[str, str], n: int, seed: int) -> list[Mutation]:
    "A mutation's rank comes from the seed and its cell: editing a cell keeps those of the others."
    found = []
    for module, text in texts.items():
        ranked = sorted(mutations(module, text), key=lambda m: digest(seed, m.cell, m.changed))
        found += spread(ranked, lambda m: m.kind)
    return spread(found, lambda m: m.module)[:n]


# ---- a run ----

def tests_of(text: str) -> list[str]:
    "The notebook that exports a module, then its appendix, or the chapter that it is one of."
    notebook = re.search(r"File to edit: (?:\.\./)+(.+)\.$", text, re.MULTILINE)[1]
    name = Path(notebook).name
    every = dict.fromkeys([notebook, f"nbs/{name}", f"nbs/appendix/{name}"])
    return [path for path in every if (ROOT / path).exists()]


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text("utf-8"))["cells"]


def swap_in(m: Mutation, root: Path, notebook: str) -> None:
    "Change the module and the cell it comes from: a notebook tests its own definitions."
    changed = [cell | {"source": "".join(cell["source"])} for cell in cells(root / notebook)]
    [cell] = [cell for cell in changed if cell["id"] == m.cell]
    module = root / "tld" / f"{m.module}.py"
    text = module.read_text("utf-8")
    if not text.count(m.body) == cell["source"].count(m.body) == 1:
        raise SystemExit(f"{module.name} is not what cell {m.cell} of {notebook} says: export it")
    module.write_text(text.replace(m.body, m.changed), "utf-8")
    cell["source"] = cell["source"].replace(m.body, m.changed)
    nb = json.loads((root / notebook).read_text("utf-8")) | {"cells": changed}
    (root / notebook).write_text(json.dumps(nb), "utf-8")


def failure(root: Path, notebook: str, limit: float) -> str | None:
    "Run a notebook; name what fails first."
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [Path(sys.executable).parent / "nbdev_test", "--path", notebook], cwd=root, text=True,
        env={**os.environ, **SMALL, "PYTHONPATH": path}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        said = process.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{notebook}: no end within {limit:.0f} s"
    if process.returncode:
        error = re.search(r"^(\w+) in (?s:.+?)^While Executing Cell #(\d+):", said, re.MULTILINE)
        if not error:   # the process died, or could not begin
            return f"{notebook}: status {process.returncode}, {said[-200:]}"
        i = int(error[2]) - 1
        return f"{notebook} cell {i} ({cells(root / notebook)[i]['id']}): {error[1]}"


def run(m: Mutation, notebooks: list[str], limit: float) -> dict:
    "Test a copy of the repository that is changed by `m`."
    start, killed_by = time.perf_counter(), None
    with tempfile.TemporaryDirectory() as folder:
        for part in ("tld", "nbs", "benchmarks"):
            shutil.copytree(ROOT / part, Path(folder, part),
                            ignore=shutil.ignore_patterns("__pycache__", ".*", "*~"))
        shutil.copy(ROOT / "settings.ini", folder)
        if m.cell:
            swap_in(m, Path(folder), notebooks[0])
        for notebook in notebooks:
            killed_by = killed_by or failure(Path(folder), notebook, limit)
    return {"killed_by": killed_by, "seconds": round(time.perf_counter() - start)}


def tell(m: Mutation, row: dict) -> str:
    fate = f"killed by {row['killed_by']}" if row["killed_by"] else "SURVIVED"
    return f"{m.line:4} {m.kind:10} {m}: {fate}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=60, help="mutations, of all modules together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MODULES, help="run those of this module")
    parser.add_argument("--processes", type=int, default=1, help="runs at once")
    args = parser.parse_args()
    texts = {name: (ROOT / "tld" / f"{name}.py").read_text("utf-8") for name in MODULES}
    tests = {name: tests_of(text) for name, text in texts.items()}
    states = {name: digest(*("".join(cell["source"]) for notebook in tests[name]
                             for cell in cells(ROOT / notebook))) for name in MODULES}
    codes = {name: digest(text) for name, text in texts.items()}
    ledger = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    ledger = {key: row for key, row in ledger.items() if key.split()[0] in codes.values()}

    def done(m: Mutation) -> dict | None:
        row = ledger.get(f"{codes[m.module]} {digest(m.cell, m.changed)}", {"tests": None})
        return row if row.get("killed_by") or row["tests"] == states[m.module] else None

    def test(m: Mutation) -> dict:
        most = 3600 if m.kind == "unchanged" else 60 + 3 * done(unchanged[m.module])["seconds"]
        return run(m, tests[m.module], most)

    def keep(m: Mutation, result: dict) -> None:
        row = {**dict(zip(Mutation._fields[:6], m)), **result, "tests": states[m.module]}
        ledger[f"{codes[m.module]} {digest(m.cell, m.changed)}"] = row
        rows = ",\n".join(f" {json.dumps(key)}: {json.dumps(row)}" for key, row in ledger.items())
        write_atomically(RESULT, lambda p: p.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8"))

    modules = [args.only] if args.only else MODULES
    drawn = [m for m in draw(texts, args.n, args.seed) if m.module in modules]
    unchanged = {name: Mutation(name, "", 0, "unchanged", "", "") for name in modules}
    for m in unchanged.values():
        if not done(m):
            result = test(m)
            if result["killed_by"]:
                raise SystemExit(f"tld.{m.module} fails as it is: {result['killed_by']}")
            keep(m, result)
    pool = ThreadPoolExecutor(args.processes)
    try:
        jobs = {pool.submit(test, m): m for m in drawn if not done(m)}
        for job in as_completed(jobs):
            keep(jobs[job], job.result())
            print(tell(jobs[job], job.result()), flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    drawn.sort(key=lambda m: (modules.index(m.module), m.line))
    survivors = [m for m in drawn if not done(m)["killed_by"]]
    print("\nThe ledger", *(tell(m, done(m)) for m in drawn), sep="\n")
    print(f"\n{len(survivors)} of {len(drawn)} survived")
    for m in survivors:
        print(f"{m}: {EQUIVALENT.get(str(m), 'why?')}")
    sys.exit(any(str(m) not in EQUIVALENT for m in survivors))


if __name__ == "__main__":
    main()
