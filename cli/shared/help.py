"""Help of commands with many options: in named sections, what most people need first, the rest on demand."""

from __future__ import annotations

import click

from cli.shared.positions import Positional

SECTIONS = {
    "Data": (
        *("model_dir", "target_data_dir", "chunks", "labels", "positive_inputs_dir", "val_data", "test_data"),
        *("weights_dir", "last", "dataset", "allow_shared_rows", "allow_custom_code"),
    ),
    "Method": (
        *("method", "methods", "draws", "rows", "requirements", "target_layer", "positive_weight", "positive_weights"),
        *("separate", "mode", "recipes", "folds", "step", "promise_rows", "max_rounds", "merge", "offers", "fronts"),
        *("forward_impact", "num_grad", "label_file", "positive_label_file"),
    ),
    "Search": (
        *(
            "seed",
            "seeds",
            "num_runs",
            "sweep",
            "objective",
            "optimiser",
            "num_particles",
            "num_iterations",
            "min_iteration_range",
        ),
        *("num_input_pos_sampled", "velocity_phi", "phi_split", "velocity_floor"),
        *("bound", "de_factor", "de_crossover", "cma_step"),
    ),
    "Where it runs": (
        *("num_workers", "address", "gpus_per_worker", "batch_size", "spread_rows", "tiles", "tile_bytes"),
        *("tile_particles", "tile_rows", "explain", "dry_run", "part"),
    ),
    "Output": ("output_dir", "run_dir", "resume", "overwrite", "verbose"),
}
"""Names of options, in the order in which they are shown."""

RARE = frozenset(
    (
        *("positive_inputs_dir", "weights_dir", "last", "allow_shared_rows", "allow_custom_code"),
        *("recipes", "folds", "step", "promise_rows", "max_rounds", "merge", "offers", "fronts", "forward_impact"),
        *("num_grad", "num_input_pos_sampled", "velocity_phi"),
        *("objective", "optimiser", "bound", "de_factor", "de_crossover", "cma_step"),
        *("phi_split", "velocity_floor", "min_iteration_range", "batch_size", "spread_rows", "gpus_per_worker"),
        *("tiles", "tile_bytes", "tile_particles", "tile_rows", "explain", "num_particles", "num_iterations"),
        *("part", "label_file", "positive_label_file"),
    )
)
"""Names of options that only `--help --all` shows."""

_ALL = "shows all options"


class Sectioned(Positional):
    """A command whose `--help` has sections; `--help --all` shows all of its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--all` away where help is asked for."""
        if "--all" in args and any(name in args for name in self.get_help_option_names(ctx)):
            ctx.meta[_ALL] = True
            args = [argument for argument in args if argument != "--all"]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Section by section; what is in none, as `--help` itself, comes last."""
        records = {
            parameter.name: record
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None
        }
        wanted = [name for name in records if ctx.meta.get(_ALL) or name not in RARE]
        known = {name for names in SECTIONS.values() for name in names}
        sections = {title: [name for name in names if name in wanted] for title, names in SECTIONS.items()}
        sections["Output"] += [name for name in wanted if name not in known]
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([records[name] for name in names])
        if more := len(records) - len(wanted):
            formatter.write_paragraph()
            formatter.write_text(f"--help --all shows {more} more options.")
