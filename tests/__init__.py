"""The tests; what they compile is kept in a folder of theirs, not in the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Imported before the engine, which reads it. An empty name, which keeps nothing, counts as said.
if os.environ.get("REPAIR_DIST_CACHE") is None:
    _folder = tempfile.mkdtemp(prefix="repair-dist-tests-")
    os.environ["REPAIR_DIST_CACHE"] = _folder
    _owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(_folder, ignore_errors=True) if os.getpid() == _owner else None)
