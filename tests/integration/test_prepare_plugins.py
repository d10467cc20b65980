"""`prepare` with data sets of other packages, as a person types it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cli.main import repair_dist
from engine.data.image_set import open_image_set, read_images
from engine.data.preprocess import preprocess_images
from tests.integration.conftest import Command, Refused, contents, ok
from tests.support.plugins import Site, write_shades

HERE = ["--num-workers=0", "--verbose=0"]
OURS = ["bdd", "bdd-objects", "cifar-10", "fashion-mnist", "gtsrb", "image-folder"]
BROKEN = "raise RuntimeError('no licence')\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Where packages are installed, beside the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # in a folder that tests watch for files left behind
    return Site(tmp_path / "site", monkeypatch)


def words_of(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def listed(out: str) -> dict[str, str]:
    """Data sets of `prepare --help`, and what it says of them."""
    lines = out.partition("Commands:\n")[2].splitlines()
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if line.startswith("  "))


def test_the_example_package(site: Site, command: Command) -> None:
    site.install_example()
    given = write_shades(Path())
    done = command("prepare", "shades", "--input-dir=.", "--output-dir=a", "--data-ratio=0.5,0.1,0.2,0.2", *HERE)
    assert (done.code, done.err) == (0, "")
    rows = {"train": 14, "val": 3, "repair": 6, "test": 7}
    assert done.out.splitlines() == [
        line for part, n in rows.items() for line in (f"{part}_images: ({n}, 32, 32, 3)", f"{part}_labels: ({n}, 3)")
    ]
    found = [open_image_set(Path("a", f"{part}.h5")) for part in rows]
    assert np.array_equal(found[-1].labels, given["test_labels"])
    assert np.array_equal(read_images(found[-1], 0, 7), preprocess_images(given["test_images"], "resize"))
    assert {(part.label_names, part.preprocess) for part in found} == {(("dark", "middle", "light"), "resize")}


def test_every_option(site: Site, command: Command) -> None:
    site.install_example()
    given = write_shades(Path())
    folders = ["--input_dir", ".", "--output_dir=b"]
    words = ["prepare", "--dataset", "shades", *folders, "--data_ratio=0,0,1,0", "--preprocess=pad", "--side=24", *HERE]
    assert command(*words).out == "test_images: (7, 24, 24, 3)\ntest_labels: (7, 3)\n"
    test = open_image_set(Path("b/test.h5"))
    assert np.array_equal(read_images(test, 0, 7), preprocess_images(given["test_images"], "pad", (24, 24)))
    with h5py.File("b/repair.h5", "w"):
        pass
    by_place = ["prepare", "shades", ".", "b", "--random-state=5", "--data-ratio=0,0,0,1", *HERE]
    done = command(*by_place)
    assert done.code == 2 and "b/repair.h5 exists and was not made by prepare" in done.err
    ok(command(*by_place, "--overwrite", "--target-label=x"))
    order = np.arange(23)
    np.random.default_rng(5).shuffle(order)
    assert np.array_equal(open_image_set(Path("b/repair.h5")).labels, given["labels"][order])


def test_pictures_in_files(site: Site, command: Command, refused: Refused) -> None:
    site.install_example()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), np.uint8)
    names = [f"{number}.png" for number in range(5)]
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(name)
    labels = ["light", "dark", "light", "middle", "dark"]
    table = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    Path("shades.csv").write_text("".join(table))
    words = ["prepare", "shade_files", "--input-dir=.", "--data-ratio=0,0,0,1", "--preprocess=pad", *HERE]
    done = command(*words)
    assert done.out.splitlines()[-1] == "repair_image_ids: (5,)"
    with h5py.File("outputs/repair.h5") as file:
        ids = [name.decode() for name in file["image_ids"]]
        assert sorted(ids) == names
        chosen = [names.index(name) for name in ids]
        assert np.array_equal(file["images"][:], preprocess_images(pixels[chosen], "pad"))
    found = open_image_set(Path("outputs/repair.h5"))
    assert [found.label_names[label] for label in found.labels] == [labels[row] for row in chosen]  # type: ignore[index]
    Path("shades.csv").write_text("".join(table).replace("middle", "grey"))
    refused(*words, says=("error: ./shades.csv has a label grey, expected one of dark, middle, light",))
    Path("shades.csv").unlink()
    refused(*words, says=("shades.csv: cannot be read or written (No such file or directory)",))


def test_help_lists_them_and_imports_nothing(site: Site, command: Command) -> None:
    site.install_example()
    site.install("broken-set", {"broken": "broken_set:X"}, BROKEN)
    done = command("prepare", "--help")
    assert (done.code, done.err) == (0, "")
    assert list(listed(done.out)) == [*OURS, "broken", "shade-files", "shades"]
    assert listed(done.out)["shades"] == "Data set of the package example-dataset."
    assert not {"example_dataset", "broken_set"} & set(sys.modules)
    done = ok(command("prepare", "shades", "--help"))
    text = words_of(done.out)
    assert "Images of one grey shade each, with a test set. A data set of the package example-dataset." in text
    assert "Example: repair-dist prepare shades --input-dir" in text
    options = re.findall(r"^  (--[\w-]+)", done.out, re.MULTILINE)
    assert set(options) == {
        *("--input-dir", "--output-dir", "--data-ratio", "--random-state", "--preprocess", "--side"),
        *("--overwrite", "--num-workers", "--address", "--verbose"),
    }


def test_the_nearest_name(site: Site, command: Command) -> None:
    site.install_example()
    done = command("prepare", "--dataset=shade")
    assert done.code == 2
    assert done.err.endswith("Error: No such command 'shade' (did you mean 'shades'?).\n")


def test_shells_complete_their_names(site: Site) -> None:
    from click.shell_completion import ShellComplete

    site.install_example()
    site.install("broken-set", {"broken": "broken_set:X", "gtsrb": "broken_set:X"}, BROKEN)
    shell = ShellComplete(repair_dist, {}, "repair-dist", "_REPAIR_DIST_COMPLETE")
    assert [item.value for item in shell.get_completions(["prepare"], "shade")] == ["shade-files", "shades"]
    assert [item.value for item in shell.get_completions(["prepare"], "")] == [
        *OURS,
        *("broken", "shade-files", "shades"),
    ]
    assert "--data-ratio" in [item.value for item in shell.get_completions(["prepare", "shades"], "--d")]
    assert "broken_set" not in sys.modules


def test_broken_ones_are_refused_alone(site: Site, command: Command, refused: Refused) -> None:
    site.install_example()
    entries = {"broken": "broken_set:X", "other-kind": "json:dumps", "twice": "json:loads"}
    site.install("broken-set", entries, BROKEN)
    site.install("other-set", {"twice": "json:dump"})
    says = "data set broken of the package broken-set cannot be imported from broken_set:X (RuntimeError: no licence)"
    for words in (["broken"], ["--dataset=broken"], ["broken", "--help"]):
        refused("prepare", *words, says=(says, "expected a Dataset"))
    refused("prepare", "other-kind", says=("other-kind of the package broken-set is a function (json:dumps)",))
    refused("prepare", "twice", says=("twice of the packages other-set, broken-set is declared 2 times",))
    write_shades(Path())
    ok(command("prepare", "shades", "--input-dir=.", *HERE))


def test_what_does_not_fit_is_refused_by_its_name(site: Site, refused: Refused) -> None:
    site.install_example()
    words = ["prepare", "shades", "--input-dir=.", *HERE]
    good = {"images": np.zeros((2, 3, 3), np.uint8), "labels": np.array([0, 2])}
    good |= {f"test_{name}": array for name, array in good.items()}
    name = "error: data set shades of the package example-dataset"
    np.savez("shades.npz", **(good | {"labels": np.array([0, 3])}))
    refused(*words, says=(f"{name}: label 1 is 3, expected 0 to 2",))
    np.savez("shades.npz", images=good["images"])
    refused(*words, says=(f"{name} cannot be read from . (KeyError: ",))


def test_a_name_of_ours_stays_ours(site: Site, command: Command) -> None:
    site.install("taker", {"image_folder": "taker:X", "gtsrb": "taker:X"}, BROKEN)
    for label in ("a", "b"):
        Path("inputs", label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(Path("inputs", label, "1.png"))
    note = "note: data set {} of the package taker is left out, as one that comes with repair-dist has its name\n"
    done = command("prepare", "image-folder", "--data-ratio=0,0,0,1", *HERE)
    assert (done.code, done.err) == (0, note.format("image_folder"))
    assert sorted(contents(Path("outputs"))) == ["repair.h5"]
    assert command("prepare", "bdd", "--help").err == ""
    done = command("prepare", "--help")
    assert (done.code, list(listed(done.out))) == (0, OURS)
    assert done.err == note.format("gtsrb") + note.format("image_folder")


def test_packages_that_cannot_be_read(site: Site, command: Command) -> None:
    site.install_example()
    (site.folder / "example_dataset-1.0.dist-info" / "entry_points.txt").write_text("[repair_dist.datasets]\nnone\n")
    done = command("prepare", "--help")
    assert (done.code, list(listed(done.out))) == (0, OURS)
    assert done.err.startswith("note: the entry points of the installed packages cannot be read (")
    assert done.err.count("\n") == 1
