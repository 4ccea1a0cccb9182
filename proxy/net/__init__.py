"""Sockets: thin asyncio protocols that feed the sans-IO connections, a listener and a dialer."""
