"""An instance as the balancer sees it."""

from proxy.balance.instance import Instance


class Endpoint:
    """An instance that calls can go to, with what a policy may weigh and what is counted for it."""

    def __init__(self, instance: Instance, kinds: int) -> None:
        self.instance = instance
        # Calls finished by this instance, by gRPC code; `kinds` is how many codes there are.
        self.codes: list[int] = [0] * kinds

    def available(self) -> bool:
        """Whether a call can be sent there right now."""
        return False
