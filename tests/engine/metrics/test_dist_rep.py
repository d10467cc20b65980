"""The score of DistrRep, by hand, and its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.metrics.dist_rep import merge_score, read_merge_settings

NAMES = ("car", "person", "bus")
SETTINGS: dict[str, Any] = {
    "target_misclassifications": {"car": ["person"], "bus": ["car"]},
    "general_misclassifications": ["car", "person"],
    "weights_precisions": {"car": 3, "person": 1},
    "weights_misclassifications": {"car": 1, "car,person": 2, "bus,car": 1},
}
LABELS = np.repeat([0, 1, 2], [10, 6, 4])
BEFORE = np.array([0] * 5 + [1] * 4 + [2] + [1] * 3 + [0] * 3 + [0] * 1 + [2] * 3)
"""Of ten cars four are taken for persons and one for a bus; of six persons three for cars; of four buses one."""


def written(path: Path, **changes: Any) -> Path:
    (path / "dr_setting.json").write_text(json.dumps(SETTINGS | changes), encoding="utf-8")
    return path / "dr_setting.json"


def test_by_hand_on_twenty_rows(tmp_path: Path) -> None:
    score = read_merge_settings(written(tmp_path), 3, NAMES)
    as_it_is = 0.75 * 0.5 - 0.5 * 0.25 * 0.5 + 0.25 * 0.5 - 0.5 * (0.5 * 0.4 + 0.25 * 0.25)
    assert as_it_is == 0.30625
    all_right = 0.75 + 0.25
    all_cars = 0.75 + 0.25 * 0 - 0.5 * 0.25 * 1
    found = score.scores(LABELS, np.stack([BEFORE, LABELS, np.zeros(20, np.int64)]))
    np.testing.assert_allclose(found, [as_it_is, all_right, all_cars], rtol=1e-15)


def test_labels_outside_general_only_dilute() -> None:
    """As in the toolkit: their weight is in the sum."""
    predicted = BEFORE[None]
    alone = merge_score([0], [], {0: 1}, {0: 1}).scores(LABELS, predicted)
    diluted = merge_score([0], [], {0: 1, 1: 3}, {0: 1, 2: 1}).scores(LABELS, predicted)
    assert alone == 0.5 - 0.25 and diluted == 0.25 * 0.5 - 0.5 * 0.5 * 0.5


def test_numbers_name_labels_too(tmp_path: Path) -> None:
    numbers = {
        "target_misclassifications": {"0": ["1"], "2": [0]},
        "general_misclassifications": [0, "1"],
        "weights_precisions": {"0": 3, "1": 1},
        "weights_misclassifications": {"0": 1, "0,1": 2, "2, 0": 1},
    }
    assert read_merge_settings(written(tmp_path, **numbers), 3, None) == read_merge_settings(
        written(tmp_path), 3, NAMES
    )


def test_a_name_with_a_comma(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        general_misclassifications=["car, red"],
        target_misclassifications={},
        weights_precisions={"car, red": 1},
        weights_misclassifications={"car, red": 1},
    )
    assert read_merge_settings(path, 2, ("bus", "car, red")).wrong == {1: 1.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights_precisions": {"car": 0, "person": 0}}, "weights_precisions has the sum 0, expected more"),
        ({"weights_misclassifications": {}}, "weights_misclassifications has the sum 0, expected more"),
        ({"weights_precisions": {"car": 1e308, "person": 1e308}}, "weights_precisions has the sum inf, expected less"),
        ({"weights_precisions": {"car": 10**400, "person": 2}}, "weights_precisions of label 0 is 10000000"),
        ({"weights_precisions": {"car": -1, "person": 2}}, "weights_precisions of label 0 is -1, expected a number"),
        ({"weights_precisions": {"car": True, "person": 2}}, "weights_precisions of label 0 is True, expected"),
        ({"weights_precisions": {"car": 1}}, "weights_precisions has no weight of label 1, expected one"),
        (
            {"weights_misclassifications": {"car": 1, "car,person": 1}},
            "weights_misclassifications has no weight of label 2 predicted as 0, expected one",
        ),
        ({"weights_precisions": {"car": 1, "0": 1, "person": 1}}, "has label 0 twice, expected each once"),
        ({"general_misclassifications": ["car", "0"]}, "general_misclassifications has label 0 twice"),
        ({"general_misclassifications": ["cat"]}, "general_misclassifications has 'cat' (did you mean 'car'?)"),
        ({"general_misclassifications": {"car": 1}}, "has general_misclassifications = dict, expected a list"),
        ({"target_misclassifications": {"car": "person"}}, "of car is str, expected a list of labels"),
        ({"target_misclassifications": {"car": ["car"]}}, "has label 0 predicted as itself, expected another"),
        ({"general_misclassifications": [], "target_misclassifications": {}}, "names no label in target_misclass"),
    ],
)
def test_settings_that_say_nothing(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_merge_settings(written(tmp_path, **changes), 3, NAMES)
    assert says in str(error.value) and ", expected" in str(error.value) and len(str(error.value)) < 300


def test_files_that_hold_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "dr_setting.json"
    for content, says in (
        ("{", "cannot be read as JSON (Expecting property name enclosed in double quotes"),
        ("[]", "holds list, expected a table of target_misclassifications, general"),
        ("{}", "has no target_misclassifications, expected a table"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError) as error:
            read_merge_settings(path, 3, NAMES)
        assert says in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_merge_settings(tmp_path / "none.json", 3, NAMES)


def test_labels_without_rows_are_refused(tmp_path: Path) -> None:
    score = read_merge_settings(written(tmp_path), 3, NAMES)
    score.check_rows(np.array([1, 1, 1]), Path("val.h5"))
    for totals, label in (([0, 1, 1], 0), ([1, 1, 0], 2)):
        with pytest.raises(InputError, match=f"val.h5 has no rows of label {label}, which the settings count"):
            score.check_rows(np.array(totals), Path("val.h5"))
