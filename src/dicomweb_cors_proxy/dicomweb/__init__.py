"""The DICOMweb side of the proxy (PS3.18): resources, routes, Accept and URLs; pure.

Read resources and routes first, then accept. Rewriting URLs in responses starts at
rewriter, which uses archive_urls, url_search, syntaxes and containers.
"""
