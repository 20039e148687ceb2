"How the scripts beside this one keep what they measured."
import json
from pathlib import Path

from tld.files import write_atomically


def store(path: Path, results: dict[str, object]) -> None:
    "Write results as JSON, an entry a line, so that a changed number is a changed line."
    lines = [f" {json.dumps(name)}: {json.dumps(result)}" for name, result in results.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    print(f"wrote {path}")
