"""The DICOMweb side of the proxy (PS3.18): resources, routes, Accept and URLs; pure.

Read resources and routes first, then accept. Rewriting URLs in responses starts at
archive_urls; rewriter uses it, url_search, syntaxes and containers.
"""
