"""The demo: a sample archive without CORS, the proxy in front of it, and a page that asks both."""
