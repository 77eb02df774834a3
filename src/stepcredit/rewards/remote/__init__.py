"""Rewards over HTTP: the server, and the payloads that it and its client (`rewards.remote`) exchange.

The protocol is written down in docs/guides/remote-rewards.md, for servers and clients in other languages.
"""
