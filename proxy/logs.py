"""Logs on stderr: one line a record, as text or as JSON. Times are UTC."""

import json
import logging
import sys
import time
from typing import Final

_TEXT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(_TEXT, _TIME)
        self.converter = time.gmtime


class _Json(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": f"{self.formatTime(record, _TIME)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up(level: str, form: str) -> None:
    """Log records of `level` (as `--log-level`) and above in `form` (`text` or `json`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One record for each selector and coroutine would drown ours at debug.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
