"""What all tests share."""

import os

from hypothesis import settings

# The same examples each time where a failure must mean that the change at hand is at fault. Elsewhere they differ
# from run to run, and what one finds becomes a test of its own.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
