"""Make `docs/images/report.png`: the top of the quickstart's report page, as a browser shows it.

    make quickstart && .venv/bin/python scripts/make_screenshot.py

Needs Chromium. The picture is stored with a palette, so that it stays small.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from engine.core.errors import WorkError
from engine.core.files import replace_file

ROOT = Path(__file__).resolve().parent.parent
REPORT = Path("outputs/quickstart/report.html")
PICTURE = ROOT / "docs" / "images" / "report.png"

WIDTH, HEIGHT = 1100, 800
"""Of the window in pixels: the page's own width, down to the sentence that says what is promised."""

COLOURS = 128
MOST_BYTES = 200_000


def browser() -> str:
    """Path of Chromium or of one of its kind.

    Raises:
        WorkError: none is installed.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise WorkError("no Chromium was found, expected one of chromium, chromium-browser and google-chrome")


def take(page: Path, picture: Path) -> None:
    """Write what the browser shows of a page as a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "page.png"
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        words = [browser(), "--headless", *sandbox, "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        words += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={raw}", page.resolve().as_uri()]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
        with Image.open(raw) as image, replace_file(picture) as file:
            few = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(file, format="PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=REPORT, help=f"page of a run [default: {REPORT}]")
    report = parser.parse_args().report
    if not report.is_file():
        raise WorkError(f"{report}: no such file, expected the page that `make quickstart` writes")
    take(report, PICTURE)
    size = PICTURE.stat().st_size
    if size > MOST_BYTES:
        raise WorkError(f"{PICTURE}: {size:,} bytes, expected at most {MOST_BYTES:,}")
    print(f"{PICTURE}: {size:,} bytes")


if __name__ == "__main__":
    main()
