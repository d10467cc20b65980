from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cli.shared.commands import Commands, Positional
from cli.shared.console import Console, echo
from cli.shared.options import F, option, options_of, together, verbose_option, was_given, worker_options
from engine.core.errors import InputError
from engine.datasets.plugins import Plugin, find_plugins

if TYPE_CHECKING:
    from engine.datasets.dataset import Dataset

T = TypeVar("T")

_PLACES = ("input_dir", "output_dir", "divide_rate", "random_state")
"""What values without a flag are of, as in eAI-Repair-Toolkit."""

_PLUGINS, _NOTES = f"{__name__}.plugins", f"{__name__}.notes"
"""Of the context of a command line: data sets of other packages, and what was told of them."""


def _ratio(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, float, float, float]:
    try:
        train, val, test, repair = (float(share) for share in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not four numbers: train,val,test,repair") from None
    return train, val, test, repair


class _Datasets(Commands):
    """Data sets by their names, ours and other packages'; `--dataset NAME` anywhere stands for NAME in front."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        ours = super().list_commands(ctx)
        return [*ours, *(name for name in _plugins(ctx) if name not in ours)]

    def found(self, ctx: click.Context, name: str) -> click.Command | None:
        ours, plugin = super().found(ctx, name), _plugins(ctx).get(name)
        if ours is None or plugin is None:
            return ours if plugin is None else _command_of(plugin)
        _note(ctx, f"{plugin} is left out, as one that comes with repair-dist has its name")
        return ours

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for place, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name == "--dataset" and (equals or place + 1 < len(args)):
                rest = args[:place] + args[place + (1 if equals else 2) :]
                return super().parse_args(ctx, [value if equals else args[place + 1], *rest])
        return super().parse_args(ctx, args)


def _plugins(ctx: click.Context) -> Mapping[str, Plugin]:
    """Data sets of other packages; a note says where they cannot be found."""
    if _PLUGINS not in ctx.meta:
        ctx.meta[_PLUGINS] = {}
        try:
            ctx.meta[_PLUGINS] = find_plugins()
        except InputError as error:
            _note(ctx, str(error))
    return cast("Mapping[str, Plugin]", ctx.meta[_PLUGINS])


def _note(ctx: click.Context, text: str) -> None:
    """Tell something once, and not while a shell completes words."""
    told = ctx.meta.setdefault(_NOTES, set())
    if text not in told and not ctx.resilient_parsing:
        echo(f"note: {text}", err=True)
    told.add(text)


@click.group(cls=_Datasets, short_help="Make train.h5, val.h5, test.h5 and repair.h5 from downloaded data.")
def command() -> None:
    """Make train.h5, val.h5, test.h5 and repair.h5 from downloaded data.

    Example: repair-dist prepare fashion-mnist --input-dir fashion-mnist --output-dir data
    """


def _preprocess_option(names: tuple[str, ...], default: str, text: str) -> Callable[[F], F]:
    return option("--preprocess", type=click.Choice(names), default=default, help=text)


def _input_option(text: str) -> Callable[[F], F]:
    return option("--input-dir", default=Path("inputs"), help=text)


def _ratio_option(text: str) -> Callable[[F], F]:
    return option("--data-ratio", callback=_ratio, default="0.5,0.1,0.2,0.2", help=text)


_COMMON = together(
    option("--output-dir", default=Path("outputs"), help="Folder for the .h5 files."),
    option("--overwrite", type=bool, help="Replace .h5 files that `prepare` did not make."),
    worker_options,
    verbose_option,
)


def _seed_option(what: str) -> Callable[[F], F]:
    return option("--random-state", default=0, help=f"Seed that shuffles the {what}.")


_ORDER_OR_SEED = option(
    "--random-state", type=int, help="Seed that shuffles the training images [default: their order is kept]."
)
_OFFICIAL_RATIO = _ratio_option(
    "train,val,test,repair; they sum to 1. The official training images are divided in the proportion "
    "train : val : repair; test, unless 0, is always the whole official test set, in its order."
)
_OWN_RATIO = _ratio_option("train,val,test,repair; they sum to 1. Parts of ratio 0 are not written.")
_PACKAGE_RATIO = _ratio_option(
    "train,val,test,repair; they sum to 1. Parts of ratio 0 are not written. Where the data set has a test set, test, "
    "unless 0, is the whole of it, and the other images are divided in the proportion train : val : repair."
)
_OBJECTS_RATIO = _ratio_option(
    "train,val,test,repair; they sum to 1. Parts of ratio 0 are not written, and without repair up to three images are "
    "left over, as in eAI-Repair-Toolkit."
)
_DIVIDE_RATE = option(
    "--divide-rate",
    type=float,
    help="Share of repair among the official training images; the rest is train, as eAI-Repair-Toolkit divides them. "
    "Takes the place of --data-ratio.",
)


def _picture_options(source: str, ratio: Callable[[F], F]) -> Callable[[F], F]:
    """What data sets of pictures of any kind take: one's own, and those of other packages."""
    return together(
        _input_option(source),
        ratio,
        _seed_option("pictures"),
        _preprocess_option(
            ("resize", "toolkit", "pad"),
            "resize",
            "Resize; resize and equalise, as eAI-Repair-Toolkit does; or pad with zeros.",
        ),
        option("--side", default=32, help="Height and width of the images."),
        options_of("other data sets", "--single-dir", "--target-label", kind=str),
        _COMMON,
    )


def _like_toolkit_option(text: str) -> Callable[[F], F]:
    return option("--like-toolkit", type=bool, help=f"{text} [default: rows of our own for each seed].")


def _refuse_like_toolkit(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        raise InputError(
            f"eAI-Repair-Toolkit shuffles {context.info_name} without a seed, so its rows cannot be made again, "
            "expected no --like-toolkit"
        )


_NOT_LIKE_TOOLKIT = option("--like-toolkit", type=bool, hidden=True, expose_value=False, callback=_refuse_like_toolkit)
_LIKE_TOOLKIT = _like_toolkit_option(
    "Divide into the rows of eAI-Repair-Toolkit for the same --random-state, which must be given, and --divide-rate, "
    "0.2 unless given: their order is kept. Not with --data-ratio."
)


def _check_like_toolkit(settings: Mapping[str, Any]) -> None:
    if settings["like_toolkit"] and was_given("data_ratio"):
        raise InputError("data_ratio changes nothing with --like-toolkit, expected --divide-rate or neither")


@command.command("fashion-mnist", cls=Positional, positions=_PLACES)
@_input_option("Folder with the four IDX files, gzipped or not.")
@_OFFICIAL_RATIO
@_DIVIDE_RATE
@_ORDER_OR_SEED
@_LIKE_TOOLKIT
@_preprocess_option(
    ("toolkit", "pad", "resize"),
    "pad",
    "From 28x28 to 32x32x3: pad with zeros; resize; or resize and equalise, as eAI-Repair-Toolkit does.",
)
@options_of("other data sets", "--single-dir", "--target-label", kind=str)
@_COMMON
def fashion_mnist(**settings: Any) -> None:
    """Prepare Fashion-MNIST.

    The same command goes on where it was interrupted.

    Example: repair-dist prepare fashion-mnist --input-dir fashion-mnist --output-dir data --data-ratio 0.3,0.1,0.1,0.5
    """
    from engine.datasets.fashion_mnist import LABEL_NAMES, prepare_fashion_mnist

    _check_like_toolkit(settings)
    _tell(_run(prepare_fashion_mnist, settings), len(LABEL_NAMES), ())


@command.command("bdd-objects", cls=Positional, positions=_PLACES)
@_input_option("Folder that create-image-subset made.")
@option("--single-dir", type=bool, help="It is one subset; by default its folders train and val are taken together.")
@_OBJECTS_RATIO
@options_of("other data sets", "--divide-rate", "--target-label", kind=str)
@_seed_option("images")
@_like_toolkit_option(
    "Rows of eAI-Repair-Toolkit for the same --random-state, which must be given, where its folders were listed by "
    "name: train before val."
)
@_preprocess_option(
    ("toolkit", "resize"), "toolkit", "Resize to 32x32 and equalise, as eAI-Repair-Toolkit does; or only resize."
)
@_COMMON
def bdd_objects(**settings: Any) -> None:
    """Prepare objects cut out of BDD100K's scenes: 13 classes, with image_ids and attribute_ids.

    The same command goes on where it was interrupted.

    An input folder with images/*.png and labels.csv (columns #filename and class_id) becomes one set of all its rows
    in each of three sizes, 32/NAME.h5, 96/NAME.h5 and 224/NAME.h5; nothing is shuffled or divided then.

    Example: repair-dist prepare bdd-objects --input-dir images --output-dir data --single-dir
    """
    from engine.datasets.bdd import LABEL_NAMES
    from engine.datasets.bdd_objects import is_table_layout, prepare_bdd_objects
    from engine.datasets.division import SEEDLESS

    if settings["like_toolkit"] and not was_given("random_state") and not is_table_layout(settings["input_dir"]):
        raise InputError(SEEDLESS)
    for part, rows in _run(prepare_bdd_objects, settings).items():
        side = int(part.partition("/")[0]) if "/" in part else 32
        _tell({part: rows}, len(LABEL_NAMES), ("image_ids", "attribute_ids"), (side, side))


@command.command("bdd", cls=Positional, positions=_PLACES)
@_input_option("Folder with images/ and labels/ of BDD100K.")
@option(
    "--target-label",
    type=click.Choice(["weather", "scene"]),
    default="weather",
    help="What is told of a frame; frames without it, or undefined, are left out.",
)
@_OWN_RATIO
@option(
    "--divide-rate",
    type=float,
    help="Divide as eAI-Repair-Toolkit does: a quarter is test, and this share of the rest repair. Takes the place of "
    "--data-ratio.",
)
@_seed_option("frames")
@_NOT_LIKE_TOOLKIT
@_preprocess_option(
    ("toolkit", "resize"), "toolkit", "Resize to 90x160 and equalise, as eAI-Repair-Toolkit does; or only resize."
)
@options_of("other data sets", "--single-dir", kind=str)
@_COMMON
def bdd(**settings: Any) -> None:
    """Prepare whole frames of BDD100K: 6 classes of weather or scene, with image_ids.

    Needed are images/100k/train and images/100k/val with their labels/bdd100k_labels_images_train.json and _val.json.
    The same command goes on where it was interrupted.

    Example: repair-dist prepare bdd --input-dir bdd100k --output-dir data --target-label scene --divide-rate 0.2
    """
    from engine.datasets.bdd_frames import SIZE, TARGET_LABELS, prepare_bdd

    target_label = settings["target_label"]
    prepared = _run(prepare_bdd, settings)
    _tell(prepared.rows, len(TARGET_LABELS[target_label]), ("image_ids",), SIZE)
    for count, why in (
        (prepared.unlabelled, "not in the label file"),
        (prepared.unknown, f"{target_label} unknown or undefined"),
    ):
        if count:
            echo(f"frames left out: {count} of {prepared.frames} ({why})")


@command.command("gtsrb", cls=Positional, positions=_PLACES)
@_input_option("Folder with the zip archives of GTSRB, or what is in them.")
@_OFFICIAL_RATIO
@_DIVIDE_RATE
@_seed_option("training images")
@_NOT_LIKE_TOOLKIT
@_preprocess_option(
    ("toolkit", "resize"),
    "toolkit",
    "Equalise, crop to a square and resize to 32x32, as eAI-Repair-Toolkit does; or only resize.",
)
@options_of("other data sets", "--single-dir", "--target-label", kind=str)
@_COMMON
def gtsrb(**settings: Any) -> None:
    """Prepare the German Traffic Sign Recognition Benchmark: 43 classes.

    Archives: GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip. The same
    command goes on where it was interrupted.

    Example: repair-dist prepare gtsrb --input-dir downloads --output-dir data
    """
    from engine.datasets.gtsrb import LABEL_NAMES, prepare_gtsrb

    _tell(_run(prepare_gtsrb, settings), len(LABEL_NAMES), ())


@command.command("cifar-10", cls=Positional, positions=_PLACES)
@_input_option("cifar-10-python.tar.gz, its folder, or a folder with either.")
@_OFFICIAL_RATIO
@_DIVIDE_RATE
@_ORDER_OR_SEED
@_LIKE_TOOLKIT
@_preprocess_option(("toolkit", "resize"), "toolkit", "Equalise, as eAI-Repair-Toolkit does; or only scale to [0, 1].")
@options_of("other data sets", "--single-dir", "--target-label", kind=str)
@_COMMON
def cifar_10(**settings: Any) -> None:
    """Prepare CIFAR-10. Its pickles are read without executing anything.

    Example: repair-dist prepare cifar-10 --input-dir cifar-10-python.tar.gz --output-dir data
    """
    from engine.datasets.cifar import LABEL_NAMES, prepare_cifar

    _check_like_toolkit(settings)
    _tell(_run(prepare_cifar, settings), len(LABEL_NAMES), ())


@command.command("image-folder", cls=Positional, positions=_PLACES[:2])
@_picture_options("Folder with a folder of pictures for every class.", _OWN_RATIO)
def image_folder(**settings: Any) -> None:
    """Prepare your own pictures: every folder is a class, and its name the label's.

    Example: repair-dist prepare image-folder --input-dir pictures --output-dir data --side 64
    """
    from engine.datasets.dataset import IMAGE_FOLDER

    _prepare_pictures(IMAGE_FOLDER, str(settings["input_dir"]), settings)


class _OfPackage(Positional):
    """A data set of another package, which is imported when its help or its pictures are asked for."""

    def __init__(self, *args: Any, plugin: Plugin, **settings: Any) -> None:
        super().__init__(*args, positions=_PLACES[:2], short_help=f"Data set of {plugin.packages}.", **settings)
        self._plugin = plugin

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = (
            f"{self._plugin.load().summary}\n\nA data set of {self._plugin.packages}. The same command goes on where "
            f"it was interrupted.\n\nExample: repair-dist prepare {self.name} --input-dir inputs --output-dir data"
        )
        super().format_help_text(ctx, formatter)


def _command_of(plugin: Plugin) -> click.Command:
    @click.command(plugin.name, cls=_OfPackage, plugin=plugin)
    @_picture_options("What the data set is read from, as its author describes.", _PACKAGE_RATIO)
    def prepare_plugin(**settings: Any) -> None:
        _prepare_pictures(plugin.load(), str(plugin), settings)

    return prepare_plugin


def _prepare_pictures(dataset: Dataset, name: str, settings: dict[str, Any]) -> None:
    from engine.datasets.dataset import prepare_dataset

    side = settings["side"]
    prepared = _run(functools.partial(prepare_dataset, dataset, name=name), settings)
    _tell(prepared.rows, prepared.classes, ("image_ids",) if prepared.with_ids else (), (side, side))


def _run(prepare: Callable[..., T], settings: dict[str, Any]) -> T:
    from cluster.compute.parallel_map import RayMap

    verbose, num_workers, address = settings.pop("verbose"), settings.pop("num_workers"), settings.pop("address")
    with Console(verbose) as console, RayMap(num_workers, address, console.say) as workers:
        return prepare(**settings, spread=workers, progress=console.rows)


def _tell(written: Mapping[str, int], classes: int, ids: tuple[str, ...], size: tuple[int, int] = (32, 32)) -> None:
    for part, rows in written.items():
        echo(f"{part}_images: ({rows}, {size[0]}, {size[1]}, 3)\n{part}_labels: ({rows}, {classes})")
        for name in ids:
            echo(f"{part}_{name}: ({rows},)")
