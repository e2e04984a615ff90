"""The core: one request from the client to the archive, and its response back.

Read access_log, cors_middleware, incoming, checks, reverse_proxy, routing, outgoing and
responses in this order, which is that of a request. relay is a short cut that most requests take.
readiness checks that the archive responds, and archive_check that it is the right one.
"""
