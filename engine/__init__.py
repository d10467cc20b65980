"""What is computed: models, image sets, targets, localisation, fitness, swarm and metrics. Knows no Ray, no click.

`__init__.pyi` names the public surface; each name is imported when it is first used, because TensorFlow and Ray take
seconds.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
