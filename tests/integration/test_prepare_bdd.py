from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.integration.conftest import Command
from tests.support.scenes import draw_scenes

HERE = ["--num_workers=0", "--verbose=0"]


def test_weathers_and_tables(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every drawn frame is clear and of a city street; one has no label, one no weather."""
    monkeypatch.chdir(tmp_path)
    base = Path("bdd100k")
    for split, scenes in (("val", 14), ("train", 10)):
        draw_scenes(base, split, scenes, width=160, height=90, objects=1)
    frames = json.loads((base / "labels/det_20/det_val.json").read_text())
    frames[1]["attributes"]["weather"] = "undefined"
    (base / "labels/det_20/det_val.json").write_text(json.dumps(frames[1:]))
    words = ["prepare", "--dataset=bdd", f"--input_dir={base}", "--output_dir=out", "--divide_rate=0.2", *HERE]
    shapes = "".join(
        f"{part}_images: ({rows}, 90, 160, 3)\n{part}_labels: ({rows}, 6)\n{part}_image_ids: ({rows},)\n"
        for part, rows in (("train", 14), ("repair", 3), ("test", 5))
    )
    left = "frames left out: 1 of 24 (not in the label file)\nframes left out: 1 of 24 (weather unknown or undefined)\n"
    assert command(*words).out == shapes + left
    with h5py.File("out/train.h5") as file:
        assert file["labels"][:].argmax(axis=1).tolist() == [2] * 14
    scene = command(*words, "--target-label=scene").out
    assert "train_labels: (15, 6)" in scene
    with h5py.File("out/train.h5") as file:
        assert file["labels"][:].argmax(axis=1).tolist() == [4] * 15
    Path("exp2/images").mkdir(parents=True)
    Image.new("RGB", (40, 30), (9, 99, 199)).save("exp2/images/1_a.png")
    Path("exp2/labels.csv").write_text("#filename,class_id\n1_a.png,car\n")
    objects = command("prepare", "bdd-objects", "--input_dir=exp2", "--output_dir=sizes", *HERE).out
    assert objects.startswith("32/exp2_images: (1, 32, 32, 3)\n32/exp2_labels: (1, 13)\n")
    assert "224/exp2_images: (1, 224, 224, 3)" in objects
    assert {str(path) for path in Path("sizes").rglob("*.h5")} == {f"sizes/{side}/exp2.h5" for side in (32, 96, 224)}
