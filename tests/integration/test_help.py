from __future__ import annotations

import importlib

import click
import pytest

from cli.main import COMMANDS, run
from cli.shared.commands import SECTIONS, Sectioned
from cli.shared.options import Option

LONG = [name for name, module in COMMANDS.items() if isinstance(importlib.import_module(module).command, Sectioned)]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert run([*words]) == 0
    return capsys.readouterr().out.splitlines()


def test_those_with_many_options_have_sections(capsys):
    assert LONG == ["localize", "optimize", "evaluate", "batch", "compare"]
    for name in LONG:
        titles = [line for line in shown(capsys, name, "--help") if line and line[0] != " " and line.endswith(":")]
        assert titles == [f"{title}:" for title in SECTIONS if f"{title}:" in titles] and len(titles) >= 4


@pytest.mark.parametrize("name", LONG)
def test_all_of_them_on_demand(name, capsys):
    """Once each, by names with dashes alone; of what is not shown the number is told."""
    command = importlib.import_module(COMMANDS[name]).command
    options = {
        parameter.opts[0]: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    }
    assert all(isinstance(parameter, Option) and parameter.section in SECTIONS for parameter in options.values())
    for more in ([], ["--all"]):
        lines = shown(capsys, name, "--help", *more)
        lines = lines[lines.index("Data:") :]
        found = [line.split()[0] for line in lines if line.startswith("  --")]
        expected = [option for option, parameter in options.items() if more or not parameter.rare]
        assert sorted(found) == sorted(expected)
        missing = len(options) - len(expected)
        assert (f"--help --all shows {missing} more options." in lines) == bool(missing)
        assert not any("_dir " in line for line in lines if line.startswith("  --"))


def test_a_newcomer_sees_one_page(capsys):
    assert len(shown(capsys, "optimize", "--help")) <= 60


def test_all_alone_is_no_option(capsys):
    assert run(["optimize", "--all"]) == 2
    assert "No such option" in capsys.readouterr().err
