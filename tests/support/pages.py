"""Pages of a report: read as a browser would, and looked at in one."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import run
from cluster.records.store import read_table

VOID = {"meta", "img", "br", "hr", "link", "input"}
WIDTHS = (360, 390, 1440)
MOST_BYTES = 3_000_000


@dataclass
class Element:
    """An element of a page; `text` is that of everything in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.all()

    def with_data(self, name: str) -> list[Element]:
        return [element for element in self.all() if f"data-{name}" in element.attributes]

    def data(self, *names: str) -> tuple[str, ...]:
        return tuple(self.attributes[f"data-{name}"] for name in names)


class Parser(html.parser.HTMLParser):
    """Builds the tree, and fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parse(page: Path) -> Element:
    parser = Parser()
    parser.feed(page.read_text(encoding="utf-8"))
    assert len(parser.open) == 1
    return parser.open[0]


def rows_in(page: Element, table: str, **data: str) -> list[Element]:
    """The rows of a table that have these data."""
    found = [element for element in page.with_data("table") if element.data("table") == (table,)]
    return [row for row in found if row.data(*data) == tuple(data.values())]


def card(page: Element, kind: str) -> Element:
    """The only card of a kind."""
    (found,) = [element for element in page.with_data("card") if element.data("card") == (kind,)]
    return found


def cells(row: Element) -> dict[str, tuple[str, str]]:
    """Column to (value in full, text)."""
    return {
        cell.attributes["data-column"]: (cell.attributes["data-value"], cell.text) for cell in row.with_data("column")
    }


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def in_order(places: list[tuple[float, float]]) -> None:
    """Marks lie where their numbers say: a greater number further on, the same number in the same place."""
    value, place = np.array(sorted(places)).T
    moved = np.diff(place)
    assert (moved[np.diff(value) == 0] == 0).all()
    assert (moved >= 0).all()
    assert place[0] < place[-1]


def marks(page: Element, what: str, number: str, place: str, sign: int = 1) -> list[tuple[float, float]]:
    """(number, place) of every mark of a kind."""
    found = [mark.attributes for mark in page.with_data(what)]
    return [(float(mark[f"data-{number}"]), sign * float(mark[place])) for mark in found]


def page_of(directory: Path, path: Path | None = None) -> Element:
    """The page of a run, by default written beside its directory, and found whole."""
    path = path or directory.parent / "page.html"
    assert run(["report", str(directory), "--html", str(path)]) == 0
    page = parse(path)
    check_whole(path, page)
    return page


def rows_of(directory: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a table of a run."""
    rows: list[dict[str, Any]] = read_table(directory, table).to_pylist()
    return rows


def check_whole(path: Path, page: Element) -> None:
    """No scripts, no other files, everything escaped, every chart described."""
    assert path.stat().st_size < MOST_BYTES
    assert not [
        element for element in page.all() if element.tag in ("script", "link", "iframe", "classifier", "vehicles")
    ]
    for element in page.all():
        for attribute in ("src", "href", "srcset", "data", "action"):
            assert element.attributes.get(attribute, "#").startswith(("#", "data:image/png"))
    style = next(element.text for element in page.all() if element.tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [element for element in page.all() if element.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")
    anchors = {element.attributes["href"] for element in page.all() if element.tag == "a"}
    identifiers = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert anchors <= {f"#{identifier}" for identifier in identifiers}
    assert len(identifiers) == len(set(identifiers))
    for chart in [element for element in page.all() if element.attributes.get("role") == "img"]:
        assert set(chart.attributes["aria-labelledby"].split()) <= set(identifiers)
        assert [child.tag for child in chart.children[:2]] == ["title", "desc"]
        coordinates = re.findall(r"nan|inf", " ".join(f"{element.attributes}" for element in chart.all()))
        assert not coordinates


def chromium(*arguments: str, profile: Path) -> subprocess.CompletedProcess[str]:
    """Run headless Chromium; its console goes to standard error."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium, expected one where CI runs")
        pytest.skip("no Chromium found: the page is not looked at in a browser")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words = [browser, "--headless", *sandbox, *quiet, f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"]
    return subprocess.run([*words, *arguments], capture_output=True, text=True, timeout=60, check=True)


LOOK = """
const light = (c) => { const [r, g, b] = c.map(x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
const colour = (text) => text.match(/[\\d.]+/g).map(Number);
function ground(e) { for (; e; e = e.parentElement) { const c = colour(e.ownerDocument.defaultView.getComputedStyle(e)
  .backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; }
function contrast(e) { const style = e.ownerDocument.defaultView.getComputedStyle(e);
  const [a, b] = [light(colour(style.color).slice(0, 3)), light(ground(e).slice(0, 3))].sort((x, y) => y - x);
  return (a + .05) / (b + .05); }
function look(frame) {
  const page = frame.contentDocument, width = frame.contentWindow.innerWidth;
  page.querySelectorAll("details").forEach(e => e.open = true);
  const inside = "nav *, .scroll *, pre *, svg *";
  const wide = [...page.body.querySelectorAll("*")].filter(e => !e.matches(inside) &&
    e.getBoundingClientRect().right > width + 1).map(e => e.tagName + "." + e.className);
  const said = [...page.querySelectorAll("h1, h2, h3, h4, p, th, td, a, dt, dd, span, summary, .what, .more")].filter(
    e => !e.matches("svg *") && e.textContent.trim());
  return { name: frame.dataset.name, width, wide,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    pictures: [...page.images].filter(e => !(e.complete && e.naturalWidth)).length, images: page.images.length,
    contrast: Math.min(...said.map(contrast)), injected: page.querySelectorAll("classifier, vehicles").length,
    sticky: frame.contentWindow.getComputedStyle(page.querySelector("nav")).position,
    charts: [...page.querySelectorAll("svg.chart")].filter(e => e.getBoundingClientRect().height < 30).length,
    background: frame.contentWindow.getComputedStyle(page.body).backgroundColor };
}
addEventListener("load", () => { const out = document.createElement("pre"); out.id = "found";
  out.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look)); document.body.append(out); });
"""


def look_at(pages: dict[str, Path], root: Path, *arguments: str) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Open every page at every width in one browser; returns what was measured, the console and outside requests."""
    frames = "".join(
        f'<iframe data-name="{name}" src="{page.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    )
    wrapper, log = root / "wrapper.html", root / "net.json"
    wrapper.write_text(f"<!doctype html><meta charset='utf-8'><body>{frames}<script>{LOOK}</script>", encoding="utf-8")
    done = chromium(
        "--allow-file-access-from-files",
        "--window-size=1600,1000",
        f"--log-net-log={log}",
        *arguments,
        "--dump-dom",
        wrapper.as_uri(),
        profile=root / "profile",
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console, requests(log)


def requests(log: Path) -> list[str]:
    """Addresses that pages asked for, files left out; the browser's own requests have no origin."""
    content = json.loads(log.read_text(encoding="utf-8"))
    kind = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [
        event["params"] for event in content["events"] if event["type"] == kind and "url" in event.get("params", {})
    ]
    return [
        request["url"]
        for request in started
        if request.get("initiator") != "not an origin" and not request["url"].startswith(("file:", "data:"))
    ]
