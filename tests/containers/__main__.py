"""``python -m tests.containers``: build the images, run the README's scenario in them, clean up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from tests.containers import images, scenario
from tests.containers.podman import FailedError, Podman, install_packages, say


def storage() -> Path:
    """Return the folder for images and containers, kept between runs so that a second run builds little."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "consul-grpc-sidecar" / "containers"


def _ended(number: int, _frame: FrameType | None) -> None:
    raise FailedError(f"ended by {signal.Signals(number).name}")


def main() -> int:
    """Return 0 if the scenario held, else 1 after saying what did not."""
    signal.signal(signal.SIGTERM, _ended)
    started = time.monotonic()
    try:
        install_packages()
        podman = Podman.prepare(storage())
        scenario.clean_up(podman)
        base = images.build_base(podman)
        images.build_stand_ins(podman, base)
        images.build_project(podman)
        try:
            scenario.run(podman)
        finally:
            scenario.clean_up(podman)
    except (FailedError, LookupError, OSError, subprocess.SubprocessError) as failed:
        print(f"containers: FAILED: {failed}", file=sys.stderr)
        return 1
    say(f"all steps held, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
