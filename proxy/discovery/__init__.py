"""Where the instances of a service come from."""
