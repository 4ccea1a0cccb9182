"""The demonstration service: a gRPC greeter that registers in Consul and drains, and its plain client."""
