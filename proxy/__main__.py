"""`python -m proxy` is `grpc-sidecar`."""

import sys

from proxy.cli import main

sys.exit(main())
