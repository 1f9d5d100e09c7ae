"""What all tests share: how hard hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

# No deadline in either: how long one example takes says more of the machine than of the code.
# CI searches further and always the same way, so a red run is the doing of the change it tests;
# at home each run searches new ground.
settings.register_profile("ci", deadline=None, max_examples=400, derandomize=True, print_blob=True)
settings.register_profile("home", deadline=None)
# For who only asks whether there is a failure, and not for the least one.
settings.register_profile(
    "any", deadline=None, max_examples=400, derandomize=True, phases=(Phase.generate,)
)
settings.load_profile("ci" if "CI" in os.environ else "home")
