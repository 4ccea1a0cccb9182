"""The scenario of the README in real containers, without an image registry: ``make containers``.

The project's own Dockerfile and compose file are used unchanged; only the images they start from are stand-ins
made here of Debian packages and the tools built from pinned modules. Debian 12 and root are needed. Everything
podman keeps (images, containers, networks) lives in a storage folder of its own and not in the machine's.
"""
