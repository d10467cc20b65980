from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.shared.options import PATH, flag_of, option, place_options, tiles_option, verbose_option, was_given
from cli.shared.parts import of_place, words_of
from engine.core.errors import InputError
from engine.core.names import in_words

if TYPE_CHECKING:
    from cluster.runs.parts import Parts


@click.command(short_help="Make one run of the parts that several clusters did.")
@click.argument("parts", type=PATH, nargs=-1, required=True, metavar="RUN RUN...")
@option("--output-dir", type=PATH, required=True, help="Run directory of the whole: records, patch and repaired model.")
@option("--model-dir", type=PATH, help="The model, if it is not where part 1 had it.")
@option("--chunks", type=PATH, help="The chunks, if they are not where part 1 had them.")
@option("--val-data", type=PATH, help="The validation data, likewise.")
@option("--test-data", type=PATH, help="The test data, likewise.")
@option("--target-data-dir", type=PATH, multiple=True, help="The negative inputs of `optimize`, likewise.")
@option("--positive-inputs-dir", type=PATH, multiple=True, help="The positive inputs, likewise.")
@option("--requirements", type=PATH, help="The file of requirements, likewise.")
@option("--allow-custom-code", type=bool, help="Run code that the model file brings along, such as Lambda layers.")
@option("--resume", type=bool, help="Go on with an interrupted merge in --output-dir, or start it.")
@option("--overwrite", type=bool, help="Replace an earlier run.")
@option("--explain", type=bool, help="Print what runs where and why.")
@tiles_option
@place_options
@verbose_option
def command(parts: tuple[Path, ...], **own: Any) -> Any:
    """Join the runs that `batch` or `optimize` left with --part 1/N to N/N, in any order, and decide.

    What comes of it is what one command without --part would have left, bit for bit: the model, the patch, all tables
    and the report. Options are those of part 1, as its run.json has them; model and data must be the same bytes, and
    the hardware of the same kind. Arachne judges all patches and saves the best; CrossFit searches over the mixtures
    of all tunings. What failed in a part is tried once more.

    Exit codes are those of that command; 2 too where a part is missing, given twice, of another run or not at its end.

    Example: repair-dist merge-runs run-1 run-2 run-3 --output-dir merged
    """
    from cli.commands import batch, optimize
    from cluster.runs.parts import read_parts

    here = {name: value for name, value in own.items() if was_given(name)}
    output = own["output_dir"].resolve()
    for directory in parts:
        if directory.resolve() == output:
            raise InputError(f"{directory} is a part and --output-dir too, expected a folder of its own")
        if directory.resolve() in output.parents:
            raise InputError(f"{own['output_dir']} is in {directory}, which is a part, expected a folder of its own")
    found = read_parts(parts)
    commands = {"batch": batch.command, "optimize": optimize.command}
    merging = commands[found.command]
    own_names, (other,) = _names(merging), commands.keys() - {found.command}
    for name in here:
        if name not in own_names:
            raise InputError(
                f"{flag_of(name)} is of {other} and the parts are of {found.command}, expected one without the other"
            )
    options = {
        name: value for name, value in _checked(found, own_names - of_place(merging)).items() if name not in here
    }
    if found.command == "optimize":
        here["run_dir"] = own["output_dir"]
    with merging.make_context(found.command, [*words_of(options), *words_of(here)], obj=found) as inner:
        return merging.invoke(inner)


def _names(command: click.Command) -> frozenset[str]:
    return frozenset(param.name for param in command.params if param.name and param.expose_value)


def _checked(parts: Parts, names: frozenset[str]) -> Mapping[str, Any]:
    """The options of part 1, which a command takes as they are: none of the place, nor any that it spells otherwise."""
    for name in parts.options:
        if name not in names:
            raise InputError(
                f"{parts.directories[0] / 'run.json'}: is damaged (option '{in_words(name)}'), expected options of "
                f"{parts.command}"
            )
    return parts.options
