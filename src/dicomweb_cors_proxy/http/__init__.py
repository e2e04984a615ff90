"""Types and rules of HTTP messages, shared by all other packages; pure.

Read messages and replies first; then headers, forwarding and
targets, the rules for intermediaries; then hosts, limits, content and extensions.
"""
