"""Make `tests/data/run-0.6.0`: run directories as version 0.6.0 leaves them, which later versions go on reading.

    python scripts/make_old_runs.py [--output-dir FOLDER]

It needs version 0.6.0: a later one writes later run directories. Model and rows are those of `cli/quickstart_data`, and
the searches are as small as they can be. Seconds, and what depends on the machine, are others each time; paths are made
relative to the folder that the commands ran in, and the name of the host is made neutral.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from cli.main import run
from cluster import read_table
from cluster.records.schema import SCHEMAS

VERSION = "0.6.0"
ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "cli" / "quickstart_data"
OUTPUT = ROOT / "tests" / "data" / f"run-{VERSION}"

REQUIREMENTS = """\
[[require]]
max_drop = 0.05
[[require]]
label = "Shirt"
min_gain = 0.02
"""

INPUTS = ["--model-dir", "data/model.keras", "--val-data", "data/val.h5", "--test-data", "data/test.h5"]
CHUNKS = [*INPUTS, "--chunks", "data/chunks", "--labels", "6"]
HERE = ["--num-workers", "0", "--verbose", "0"]
SEARCH = ["--num-particles", "8", "--num-iterations", "4", "--min-iteration-range", "2"]
LIMITS = ["--requirements", "data/limits.toml"]
STATED = ["--requirements", "data/requirements.toml"]
RUNS = {
    "optimize-crossfit": [
        *("optimize", "--method", "CrossFit", *INPUTS, "--target-data-dir", "data/chunks/0/negative/6"),
        *(*STATED, "--folds", "2", "--recipes", "1,4", "--output-dir", "repaired"),
        *("--run-dir", "optimize-crossfit"),
    ],
    "batch-arachne": [
        *("batch", "--method", "Arachne", *CHUNKS, *LIMITS, "--positive-weights", "0.15x", "--max-rounds", "1"),
        *(*SEARCH, "--output-dir", "batch-arachne"),
    ],
    "compare": [
        *("compare", *CHUNKS, *STATED, "--methods", "head,label-offset", "--draws", "2", "--rows", "150"),
        *("--output-dir", "compare"),
    ],
}
HOST, WORKER = "machine", "machine:1"
"""Where everything ran, so to speak."""


def main() -> None:
    """Run the commands in a folder of their own, and keep what they record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=OUTPUT, help="default: %(default)s")
    output = parser.parse_args().output_dir.resolve()
    if version("repair-dist") != VERSION:
        sys.exit(f"found version {version('repair-dist')}, expected {VERSION}: its run directories are to be kept")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        os.chdir(folder)
        prepare()
        for name, words in RUNS.items():
            call([*words, *HERE])
            keep(folder, name, output / name)


def call(words: list[str]) -> None:
    """Run a command; requirements that are not met (3) are a result too."""
    sys.argv = ["repair-dist", *words]  # as run.json tells it
    if (code := run(words)) not in (0, 3):
        sys.exit(f"{' '.join(words)}: exit code {code}")


def prepare() -> None:
    """Two chunks of 150 rows with targets, held-out rows of 120, and requirements, in `data` here."""
    data = Path("data")
    data.mkdir()
    shutil.copy(SHIPPED / "model.keras", data)
    (data / "limits.toml").write_text(REQUIREMENTS, encoding="utf-8")
    (data / "requirements.toml").write_text(f"confidence = 0.9\n{REQUIREMENTS}", encoding="utf-8")
    ratio = ["--data-ratio", "0,0.1,0.5,0.4"]
    call(["prepare", "fashion-mnist", "--input-dir", str(SHIPPED), "--output-dir", "all", *ratio])
    for name in ("val", "test"):
        call(["split", f"all/{name}.h5", "--chunk-size", "120", "--chunks", "1", "--output-dir", name])
        Path(name, "0", "repair.h5").rename(data / f"{name}.h5")
    call(["split", "all/repair.h5", "--chunk-size", "150", "--chunks", "2", "--output-dir", "data/chunks"])
    for number in ("0", "1"):
        call(["target", "--model-dir", "data/model.keras", "--data-dir", f"data/chunks/{number}", *HERE])


def keep(folder: Path, name: str, output: Path) -> None:
    """Copy tables and facts of a run, without what names the machine."""
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    for table in SCHEMAS:
        if (path := folder / name / f"{table}.arrow").is_file():
            write(output / path.name, read_table(folder / name, table), folder)
    facts = neutral(json.loads((folder / name / "run.json").read_text(encoding="utf-8")), folder)
    text = json.dumps({**facts, "host": HOST, "pid": 1}, indent=2, sort_keys=True)
    (output / "run.json").write_text(f"{text}\n", encoding="utf-8")


def write(path: Path, rows: pa.Table, folder: Path) -> None:
    """Write a table with neutral words, and the metadata of its columns as they are."""
    words = {"host": HOST, "worker": WORKER}
    for number, field in enumerate(rows.schema):
        if field.type == pa.string():
            column = [words.get(field.name, neutral(word, folder)) for word in rows[field.name].to_pylist()]
            rows = rows.set_column(number, field, pa.array(column, pa.string()))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)


def neutral(value: Any, folder: Path) -> Any:
    """JSON with absolute paths below a folder made relative to it."""
    if isinstance(value, dict):
        return {neutral(key, folder): neutral(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [neutral(each, folder) for each in value]
    return value.replace(f"{folder}/", "").replace(str(folder), ".") if isinstance(value, str) else value


if __name__ == "__main__":
    main()
