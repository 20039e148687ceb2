"The script that trains and measures the text encoder, tiny."
import json
import sys

import pytest
import torch

from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    "The script as a function of its arguments; returns what it measured."
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import text_encoder

    def run(folder, *options):
        monkeypatch.setattr(sys, "argv", ["script", str(folder), "--tiny", "-n", "48", *options])
        text_encoder.main()
        return json.loads((folder / "measures.json").read_text())
    return run


def test_a_text_tower_is_trained_given_and_measured(script, tmp_path, capsys):
    steps = "--text-steps", "3", "--image-steps"
    first = script(tmp_path / "a", *steps, "0")
    assert set(first["val"]["nearer"]) == {"caption"}  # no image tower: it is not asked
    assert set(first["typed"].values()) == {0}
    assert sum(first["pieces"].values()) == first["fitted"] == 8 * first["captions"]
    for split in ("val", "unseen"):
        for name, row in first[split]["read"].items():
            share, low, high = row if name == "everything" else row["all"]
            assert 0 <= low <= share <= high <= 100, (split, name)

    # The image tower another day; the same from the stored text tower, in another folder; and from
    # a state as the prototype wrote it.
    later = script(tmp_path / "a", *steps, "2")
    assert set(later["val"]["nearer"]) == {"caption", "picture"}
    state = torch.load(tmp_path / "a/text_tower.pt", weights_only=True)
    torch.save({"m": state["parts"]["model"], "cfg": state["settings"]}, tmp_path / "old.pt")
    for name, tower in (("b", tmp_path / "a/text_tower.pt"), ("c", tmp_path / "old.pt")):
        assert script(tmp_path / name, *steps, "2", "--tower", str(tower)) == later
        a, b = (torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("a", name))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert script(tmp_path / "a", "--measure") == later
    capsys.readouterr()
