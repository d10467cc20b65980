"""What the commands compute, as one digest for each set of patches and tables: equal before and after a change of form.

    python -m tests.support.digests > digests.txt

Two checkouts on one machine, with the same libraries, must print the same lines. Time, place and version are left out,
and so are paths: see `cluster.comparable`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.ipc

from cluster import comparable

MODEL = Path(__file__).parents[2] / "cli" / "quickstart_data" / "model.keras"
SEARCH = ["--num-particles", "20", "--num-iterations", "8", "--num-workers", "0"]
MODES = ("independent", "rounds", "chain")
LAYERS = ("dense", "conv2d_2", "dense,dense_1")
"""Weights that are searched through the tail of the model: by touched units of both kinds, and put in place."""


def run(folder: Path, *words: object) -> None:
    command = [Path(sys.executable).with_name("repair-dist"), *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise click.ClickException(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")


def table_digest(path: Path) -> str:
    table = comparable(pa.ipc.open_file(pa.OSFile(str(path))).read_all())
    digest = hashlib.sha256("\n".join(f"{field.name} {field.type}" for field in table.schema).encode())
    digest.update(str(table.to_pylist()).encode())
    return digest.hexdigest()


def files_of(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("weights.csv", "model.keras"):
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".arrow":
            yield name, table_digest(path)


def prepared(root: Path, data: Path) -> None:
    for name in ("val", "test"):
        run(root, "split", data / f"{name}.h5", "--chunk-size", 600, "--chunks", 1, "--output-dir", name)
        (root / name / "0" / "repair.h5").rename(root / f"{name}.h5")
    run(root, "split", data / "repair.h5", "--chunk-size", 400, "--chunks", 3, "--output-dir", "chunks")
    run(root, "target", "--model-dir", MODEL, "--data-dir", "chunks/0", "--num-workers", 0)


def repair(root: Path, name: str, *options: object) -> Iterator[tuple[str, str]]:
    """One `optimize` of label 6 of the first chunk; `options` are of both `localize` and `optimize`."""
    inputs = ["--model-dir", MODEL, "--target-data-dir", "chunks/0/negative/6"]
    run(root, "localize", *inputs, *options, "--num-workers", 0)
    run(root, "optimize", *inputs, *options, *SEARCH, "--seeds", 2, "--output-dir", name, "--run-dir", f"{name}-run")
    yield from files_of(root / name)
    yield from files_of(root / f"{name}-run")


def evaluate(root: Path) -> Iterator[tuple[str, str]]:
    run(
        *(root, "evaluate", "--model-dir", MODEL, "--target-data-dir", "chunks/0/negative/6"),
        *("--test-data", "test.h5", "--num-runs", 3, "--sweep", "num_grad=20,200", *SEARCH),
        *("--output-dir", "evaluate"),
    )
    yield from files_of(root / "evaluate")


def batch(root: Path, mode: str) -> Iterator[tuple[str, str]]:
    run(
        *(root, "batch", "--method", "Arachne", "--model-dir", MODEL, "--chunks", "chunks", "--labels", "4,6"),
        *("--val-data", "val.h5", "--test-data", "test.h5", "--mode", mode, "--seeds", 2),
        *(("--max-rounds", 2) if mode == "rounds" else ()),
        *(*SEARCH, "--output-dir", f"batch-{mode}"),
    )
    yield from files_of(root / f"batch-{mode}")


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Work here, and leave everything.")
def main(keep: Path | None) -> None:
    """Run everything and print `what file digest` lines."""
    with tempfile.TemporaryDirectory() as temporary:
        root = keep or Path(temporary)
        quick, work = root / "quickstart", root / "work"
        for folder in (quick, work):
            folder.mkdir(parents=True)
        run(quick, "quickstart", "--output-dir", "out")  # with its two workers; its data serve all that follows
        show("quickstart", files_of(quick / "out"))
        prepared(work, quick / "out" / "data")
        show("optimize", repair(work, "last"))
        show("evaluate", evaluate(work))
        for layer in LAYERS:
            show(f"optimize {layer}", repair(work, layer.replace("/", "-"), "--target-layer", layer))
        for mode in MODES:
            show(f"batch {mode}", batch(work, mode))


def show(what: str, found: Iterator[tuple[str, str]]) -> None:
    for name, digest in found:
        click.echo(f"{what}: {name} {digest[:16]}")


if __name__ == "__main__":
    main()
