"""A local gRPC sidecar for Consul: relays frames, not messages, to healthy instances."""
