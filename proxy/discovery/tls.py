"""TLS towards Consul."""

import ssl

from proxy.consul_config import ConsulConfig
from proxy.errors import UsageError


def tls_context(config: ConsulConfig) -> ssl.SSLContext:
    """Return the context for `config`: its authorities or the system's, its client certificate if any.

    Raises UsageError if a file does not hold what it should.
    """
    context = ssl.create_default_context()
    if config.ca_file or config.ca_path:
        # Consul's own tools trust these alone, not the system's authorities as well.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(config.ca_file or None, config.ca_path or None)
        except (ssl.SSLError, OSError) as error:
            name = "CONSUL_CACERT" if config.ca_file else "CONSUL_CAPATH"
            path = config.ca_file or config.ca_path
            raise UsageError(f"{name}: {path} holds no certificate in PEM form ({error}); correct it") from error
    if config.client_cert:
        try:
            context.load_cert_chain(config.client_cert, config.client_key or None, password=_no_password)
        except (ssl.SSLError, OSError) as error:
            raise UsageError(
                f"CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY: {config.client_cert} and its key are no pair in PEM "
                f"form without a password ({error}); correct them"
            ) from error
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    """An encrypted key must fail rather than make OpenSSL ask on a terminal."""
    return ""
