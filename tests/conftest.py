"""What all tests share: how hard hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline in either: how long one example takes says more of the machine than of the code.
# CI searches further and always the same way, so a red run is the doing of the change it tests;
# at home each run searches new ground.
settings.register_profile("ci", deadline=None, max_examples=400, derandomize=True, print_blob=True)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if "CI" in os.environ else "home")
