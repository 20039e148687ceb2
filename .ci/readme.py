#!/usr/bin/env python
"""Write README.md from nbs/index.ipynb.

Relative links are made to work from the top of the repository. Hidden cells and the Colab install
cell are left out; of a cell with `#| echo: false`, only the output is shown. A picture belongs in a
file that the notebook links, not in a cell's output.

    .ci/readme.py           write
    .ci/readme.py --check   change nothing; exit 1 when README.md is stale
"""
import argparse
import posixpath
import re
import sys

from house import QUOTED, ROOT, directives, read_notebook, source, write_if_changed

NOTE = "<!-- Written by `make readme` from nbs/index.ipynb: edit that. -->"
ELSEWHERE = re.compile(r"[a-z]+:|#|/", re.IGNORECASE)  # a URL, an anchor, an absolute path


def from_top(markdown: str) -> str:
    "Relative link targets of nbs/, as seen from the top of the repository."
    def move(match: re.Match) -> str:
        before, target, after = match.groups()
        if not ELSEWHERE.match(target):
            target = posixpath.normpath(posixpath.join("nbs", target))
        return before + target + after

    pieces = QUOTED.split(markdown)  # every second piece is quoted
    for i in range(0, len(pieces), 2):
        pieces[i] = re.sub(r'(\]\()([^()\s]+)((?:\s+"[^"]*")?\))', move, pieces[i])
        pieces[i] = re.sub(r"""(\b(?:src|href)=["'])([^"']+)(["'])""", move, pieces[i])
    return "".join(pieces)


def render_output(output: dict) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if any(kind.startswith("image/") for kind in data):
        raise ValueError("index.ipynb shows a picture in an output: save it and link the file")
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            return from_top("".join(data[kind]))
    return "```text\n" + "".join(data["text/plain"]).rstrip("\n") + "\n```"


def render(nb: dict) -> str:
    "The notebook as Markdown."
    parts = [NOTE]
    for cell in nb["cells"]:
        flags = directives(cell)
        if cell["cell_type"] == "markdown":
            parts.append(from_top(source(cell)))
        elif cell["cell_type"] == "code" and not {"hide", "eval: false"} & set(flags):
            lines = [s for s in source(cell).splitlines() if not s.strip().startswith("#|")]
            if any(lines) and "echo: false" not in flags:
                parts.append("```python\n" + "\n".join(lines).strip("\n") + "\n```")
            parts += map(render_output, cell["outputs"])
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when stale")
    check = parser.parse_args().check
    readme, text = ROOT / "README.md", render(read_notebook(ROOT / "nbs" / "index.ipynb"))
    if not check:
        write_if_changed(readme, text)
        return 0
    if readme.exists() and readme.read_text(encoding="utf-8") == text:
        return 0
    print("README.md is not what nbs/index.ipynb says: run `make readme`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
