"""The connection to the archive: sends requests and returns responses.

Read interface and failures first. The client of our own is native, on top of pool,
connection and response_parser; httpx_client replaces it on request; oauth adds tokens.
"""
