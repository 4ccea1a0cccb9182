"""A registry for development that speaks the part of Consul's HTTP API that the project uses.

It keeps everything in memory and runs checks by itself. What it does is observed on Consul 1.19.2, and the tests in
``tests/contract`` run against both.
"""
