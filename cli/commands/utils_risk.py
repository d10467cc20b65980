from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared.chart_options import Predict, predict_options
from cli.shared.console import created, echo
from cli.shared.options import PATH, option
from engine.core.errors import InputError

if TYPE_CHECKING:
    from engine.core.types import Bool, Int64
    from engine.data.image_set import ImageSet

SCENE, MISS, BOTH = "scene_prob", "miss_rate", "scene_prob_and_miss_rate"


@click.command("risk_calculation_tool", short_help="How often scenes come up, and how often objects are mistaken.")
@option(
    "--calc-target",
    type=click.Choice([SCENE, MISS, BOTH]),
    metavar=f"[{SCENE}|{MISS}|{BOTH}]",  # click would show them with dashes
    required=True,
    help="What to calculate.",
)
@option("--h5-dataset-path", type=PATH, required=True, help="Set of prepare bdd-objects, or a folder with several.")
@option(
    "--create-image-subset-output-path",
    type=PATH,
    required=True,
    help="Images that the sets were prepared from: a subset of create-image-subset, or the folder of train and val.",
)
@option("--output-dir", default=Path("outputs"), help="Folder for what is written.")
@option("--format-json", type=bool, help="Indent results.json.")
@option("--scalabel-format-label-path", type=PATH, help="Label file of BDD100K, or a folder of them, for --attributes.")
@option("--label", help="Ask for objects of this label, by name or number.")
@option("--attributes", help="Ask for frames with these attributes, such as weather=rainy,timeofday=night.")
@option("--model-dir", type=PATH, help="The model that may be mistaken.")
@option("--allow-custom-code", type=bool, help="Run code that the model file brings along, such as Lambda layers.")
@option("--overwrite", type=bool, help="Replace folders with other things than pictures in them.")
@predict_options
def risk_calculation_tool(
    calc_target: str,
    h5_dataset_path: Path,
    create_image_subset_output_path: Path,
    output_dir: Path,
    format_json: bool,
    scalabel_format_label_path: Path | None,
    label: str | None,
    attributes: str | None,
    model_dir: Path | None,
    overwrite: bool,
    predict: Predict,
) -> None:
    """Calculate how often a kind of scene comes up among BDD100K's objects, and how often a model mistakes objects.

    Writes results.json, and copies of pictures: matched_data/ has those that match --label and --attributes, and
    misrecognision_data/TRUE/PREDICTED/ those that the model mistakes, of all rows or, for scene_prob_and_miss_rate,
    of those that match.

    Example: repair-dist utils risk_calculation_tool --calc-target scene_prob --h5-dataset-path data/test.h5
    --create-image-subset-output-path images --scalabel-format-label-path labels/det_20 --attributes weather=rainy
    """
    from engine.datasets import bdd_risk as risk

    sets = risk.open_objects(h5_dataset_path)
    query = risk.Query()
    if calc_target != MISS:
        query = risk.read_query(label, attributes, sets[0])
    elif label is not None or attributes is not None:
        raise InputError(f"label and attributes change nothing in {MISS}, expected --calc-target {BOTH}")
    if calc_target != SCENE and model_dir is None:
        raise InputError(f"{calc_target} needs a model that may be mistaken, expected --model-dir")
    matched = risk.matching_rows(sets, query, scalabel_format_label_path)
    copies: dict[str, list[tuple[str, Path]]] = {}
    response: dict[str, Any] = {}
    source = create_image_subset_output_path
    for name, unused in ((risk.MATCHED, MISS), (risk.MISTAKEN, SCENE)):
        if calc_target != unused:
            risk.check_folder(output_dir / name, source, overwrite)
    if calc_target != MISS:
        response = {"query": query.stated(), "scene_prob": {"summary": risk.scene_summary(matched)}}
        copies[risk.MATCHED] = [("", path) for found in risk.find_pictures(source, sets, matched) for path in found]
    if model_dir is not None and calc_target != SCENE:
        predicted = _predictions(model_dir, sets, matched, predict)
        response["miss_rate"] = _miss_rate(sets, predicted, matched)
        copies[risk.MISTAKEN] = _mistaken(source, sets, predicted, matched)
    for name, pictures in copies.items():
        risk.copy_pictures(output_dir / name, pictures)
    _write(output_dir / "results.json", response, 4 if format_json else None)
    _tell(response)
    created(output_dir / "results.json", *(output_dir / name for name in copies))


def _predictions(model_dir: Path, sets: list[ImageSet], matched: list[Bool], predict: Predict) -> list[Int64]:
    """Predicted classes (n,) of each set; true ones, which are not counted, of sets of which no row matches."""
    asked = [images for images, rows in zip(sets, matched, strict=True) if rows.any()]
    [predicted] = predict([model_dir], asked, fitting=sets)
    found = dict(zip((images.path for images in asked), predicted, strict=True))
    return [found.get(images.path, images.labels) for images in sets]


def _miss_rate(sets: list[ImageSet], predicted: list[Int64], matched: list[Bool]) -> dict[str, Any]:
    import numpy as np

    from engine.datasets.bdd_risk import miss_summary
    from engine.metrics.accuracy import confusion

    of_sets = [
        confusion(images.labels[rows], classes[rows], images.classes)
        for images, classes, rows in zip(sets, predicted, matched, strict=True)
    ]
    counts = np.sum(of_sets, axis=0)
    return {"summary": miss_summary(counts), "confusion_matrix": counts.tolist()}


def _mistaken(
    source: Path, sets: list[ImageSet], predicted: list[Int64], matched: list[Bool]
) -> list[tuple[str, Path]]:
    """Pictures of matching rows that the model mistakes, each with `<true>/<predicted>`."""
    from engine.datasets.bdd_risk import find_pictures

    wrong = [rows & (images.labels != classes) for images, classes, rows in zip(sets, predicted, matched, strict=True)]
    found = find_pictures(source, sets, wrong)
    return [
        (f"{true}/{taken}", path)
        for images, classes, rows, paths in zip(sets, predicted, wrong, found, strict=True)
        for true, taken, path in zip(images.labels[rows].tolist(), classes[rows].tolist(), paths, strict=True)
    ]


def _write(path: Path, response: dict[str, Any], indent: int | None) -> None:
    from engine.core.files import replace_file

    with replace_file(path) as temporary:
        temporary.write_text(json.dumps({"response": response}, indent=indent), encoding="utf-8")


def _tell(response: dict[str, Any]) -> None:
    """What was found, as eAI-Repair-Toolkit prints it."""
    if "query" in response:
        echo(f"[Query]\n{json.dumps(response['query'], indent=4)}")
        echo(f"[Summary of scene prob]\n{json.dumps(response['scene_prob']['summary'], indent=4)}")
    if "miss_rate" in response:
        echo(f"[Summary of miss rate]\n{json.dumps(response['miss_rate']['summary'], indent=4)}")
