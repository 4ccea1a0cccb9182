"""The stack of ``docker-compose.yaml`` as local processes, with a registry for where there is no Consul."""
