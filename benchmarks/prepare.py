"""Crop and prepare: images per second on one and on two workers, against a plain loop with Pillow.

Scenes of 1280×720 are drawn; their objects are cut out (`create_category_dir`) and made into an image set (`prepare
bdd-objects`). The plain loop does the same in one process, image by image: Pillow decodes, crops and encodes, and
scikit-image resizes and equalises. All of them must give the same pixels.

python benchmarks/prepare.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import numpy as np
from common import machine, table
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from skimage.exposure import equalize_hist
from skimage.transform import resize

from cluster.compute.parallel_map import RayMap
from engine.core.parallel import ParallelMap
from engine.datasets.bdd import LABEL_NAMES, read_frames, square_crop
from engine.datasets.bdd_objects import prepare_bdd_objects
from engine.datasets.category_dir import create_category_dir
from engine.datasets.subset import SubsetSettings, create_image_subset

AIMS = {"one worker": 1.0, "two workers": 1.7}
"""Images per second of both steps, against the plain loop."""


def plain_crops(scenes: Any, output: Path) -> None:
    """Folders of crops and their list, one box after the other."""
    entries = []
    for frame in read_frames(scenes.labels):
        image = Image.open(scenes.images / frame.name)
        for box in frame.boxes or ():
            rows, columns = square_crop(box, image.height, image.width)
            crop = image.crop((columns.start, rows.start, columns.stop, rows.stop))
            folder = output / box.category
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{box.name}_{frame.name}"
            crop.save(folder / name, quality=95)
            value = float(np.asarray(Image.open(folder / name)).max(axis=2).mean())
            area = crop.width * crop.height
            entries.append({"name": name, "label": box.category, "value_mean": value, "area": area})
    (output / "image_info.json").write_text(json.dumps(entries, indent=4))


def plain_prepare(subset: Path, output: Path) -> None:
    """An image set of all images of a subset, one after the other."""
    images = json.loads((subset / "image_info.json").read_text())["images"]
    labels = {image["name"]: LABEL_NAMES.index(image["label"]) for image in images}
    names = np.array(sorted(labels), object)
    np.random.default_rng(0).shuffle(names)
    output.mkdir()
    with h5py.File(output / "repair.h5", "w") as file:
        rows = file.create_dataset("images", (len(names), 32, 32, 3), np.float32)
        one_hot = file.create_dataset("labels", (len(names), 13), np.float32)
        for row, name in enumerate(names):
            hsv = rgb2hsv(resize(np.asarray(Image.open(subset / name)), (32, 32)))
            hsv[..., 2] = equalize_hist(hsv[..., 2])
            rows[row] = hsv2rgb(hsv)
            one_hot[row] = np.eye(13)[labels[name]]


@click.command()
@click.option("--scenes", "count", default=150, show_default=True, help="Scenes to draw.")
@click.option("--objects", default=18, show_default=True, help="Objects of a scene, as BDD100K has on average.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of the medians.")
def main(count: int, objects: int, rounds: int) -> None:
    """Time both steps of each way in turn, and show their medians and the ratios to the plain loop."""
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from tests.support.scenes import draw_scenes

    click.echo(machine())
    with tempfile.TemporaryDirectory(prefix="repair-dist-") as folder:
        root = Path(folder)
        scenes = draw_scenes(root / "bdd", "val", count, objects=objects)
        create_category_dir(scenes.labels, scenes.images, root / "categories")
        drawn = create_image_subset(root / "categories", root / "subset", SubsetSettings(10**9)).drawn
        images = sum(drawn.values())
        with RayMap(1, say=lambda line: None) as one, RayMap(2, say=lambda line: None) as two:
            times = measure(scenes, root, {"plain loop": None, "one worker": one, "two workers": two}, rounds)
    click.echo(f"{count} scenes of 1280×720, {images} images of 32×32×3; medians of {rounds} rounds, workers warm\n")
    both = {name: median(sum(took) for took in found) for name, found in times.items()}
    rows = []
    for name, found in times.items():
        crop = median(cropping for cropping, _ in found)
        prepare = median(preparing for _, preparing in found)
        speeds = [
            f"{count / crop:.1f}",
            f"{images / crop:.0f}",
            f"{images / prepare:.0f}",
            f"{images / both[name]:.0f}",
        ]
        ratio = f"{both['plain loop'] / both[name]:.2f}"
        rows.append([name, *speeds, ratio, AIMS.get(name, "")])
    head = ["", "scenes/s cropped", "images/s cropped", "images/s prepared", "images/s of both", "/ plain loop", "aim"]
    click.echo(table(head, rows))


def measure(
    scenes: Any, root: Path, ways: dict[str, ParallelMap | None], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of cropping and of preparing, for every way and round; all ways must give the same pixels."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    expected = None
    for turn in range(rounds + 1):
        for name, spread in ways.items():
            for made in ("crops", "data"):
                shutil.rmtree(root / made, ignore_errors=True)
            begun = time.perf_counter()
            if spread is None:
                plain_crops(scenes, root / "crops")
            else:
                create_category_dir(scenes.labels, scenes.images, root / "crops", spread=spread)
            between = time.perf_counter()
            if spread is None:
                plain_prepare(root / "subset", root / "data")
            else:
                ratio = (0.0, 0.0, 0.0, 1.0)
                prepare_bdd_objects(root / "subset", root / "data", single_dir=True, data_ratio=ratio, spread=spread)
            ended = time.perf_counter()
            if turn:  # the first round starts the workers
                times[name].append((between - begun, ended - between))
            else:
                with h5py.File(root / "data" / "repair.h5") as file:
                    expected = file["images"][:] if expected is None else expected
                    if not np.array_equal(file["images"][:], expected):
                        raise click.ClickException(f"{name} gives other pixels than the plain loop")
    return times


if __name__ == "__main__":
    main()
