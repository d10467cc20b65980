"""What is computed: models, image sets, targets, localisation, fitness, swarm and metrics. Knows no Ray, no click.

`__init__.pyi` names the public surface; each name is imported when it is first used, because TensorFlow and Ray take
seconds.
"""

from __future__ import annotations

import lazy_loader

from engine.core.renamed import with_old_names

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__getattr__ = with_old_names(
    __name__,
    _attribute,
    {
        "judge": ("check_requirements", "check_requirements"),
        "plan_search": ("Target.memory_plan with a SearchSize", "engine.targets.memory:plan_search"),
    },
)
