"""`python -m dicomweb_cors_proxy`."""

from dicomweb_cors_proxy.cli import main

main(prog_name="dicomweb-cors-proxy")
