"""Verification of the access tokens that clients send.

Read verifier first, then key_cache, provider and keys.
"""
