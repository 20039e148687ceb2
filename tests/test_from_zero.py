"Chapter 00 keeps its promise: the whole method in 200 lines on torch and the world's data alone."
import ast
import json

from conftest import ROOT

CELLS = json.loads((ROOT / "nbs" / "00_from_zero.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def defines(code: str) -> bool:
    "A cell of the method: it defines functions or classes, or brings in torch and the data."
    if "google.colab" in code or "%%" in code:
        return False
    kinds = (ast.FunctionDef, ast.ClassDef)
    return "starter_data()" in code or any(isinstance(n, kinds) for n in ast.parse(code).body)


def looks(code: str) -> bool:
    "A cell that shows or tests what the method does."
    words = "show(", "show_sheet(", "assert", "fit_steps", "package_draw"
    return any(word in code for word in words)


METHOD = [code for code in CODE if defines(code) and not looks(code)]


def test_the_method_fits_on_200_lines():
    lines = [line for code in METHOD for line in code.splitlines() if line.strip()]
    names = [node.name for code in METHOD for node in ast.parse(code).body if hasattr(node, "name")]
    wanted = {"bag", "add_noise", "exact", "Block", "Net", "draw_noise", "loss_of", "draw", "train"}
    assert wanted <= set(names)
    assert len(lines) <= 200 and max(map(len, lines)) <= 88


def test_it_imports_torch_and_data_only():
    allowed = {"math", "typing", "torch", "torch.nn.functional", "tld.world.patch_latents"}
    for code in METHOD:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert node.module in allowed


def test_the_chapter_is_short():
    assert len(CELLS) <= 50
