"""Rewards that run elsewhere: over HTTP (server and client), on Ray actors, or behind a chat-completion API.

docs/guides/remote-rewards.md specifies the HTTP protocol for servers and clients in other languages.
"""
