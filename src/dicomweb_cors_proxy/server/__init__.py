"""The connection to clients: an HTTP/1.1 server that runs an ASGI application.

Read uvicorn_server first, then connection, request_reader, request_body and exchange; the
other modules are parts of these.
"""
