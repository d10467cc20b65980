"""`create_image_dir`: the name that an earlier eAI-Repair-Toolkit gave to `create_image_subset`."""

from __future__ import annotations

import copy

from cli.commands.create_image_subset import command as create_image_subset

command = copy.copy(create_image_subset)
command.short_help = "The same as create-image-subset."
command.help = (create_image_subset.help or "").replace("create-image-subset", "create-image-dir")
