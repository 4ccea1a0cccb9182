"""Sans-IO HTTP/2 (RFC 9113, RFC 7541): bytes in, events and bytes out. No socket, no clock, no randomness.

A `Connection` is fed with `receive(data, now)`, reports by calling its own `on_...` methods, which a subclass
overrides, and keeps its output until the carrier takes it.
"""
