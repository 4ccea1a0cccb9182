"""Which instance gets the next call: instances, and the policies that pick among them."""
