"""The settings: their names, types, defaults and descriptions.

`settings.Settings` adds the checks, which see the fields together.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from dicomweb_cors_proxy.config.groups import Group
from dicomweb_cors_proxy.config.kinds import (
    AllowedHost,
    ArchiveURL,
    BasePath,
    BodyLimit,
    Count,
    ExtraPath,
    HeadLimit,
    ListenAddress,
    MaxAge,
    NonNegativeSeconds,
    PeerNetwork,
    Port,
    PublicURL,
    Seconds,
    Token,
    Workers,
)
from dicomweb_cors_proxy.config.logins import AccessAuth, UpstreamAuth
from dicomweb_cors_proxy.config.pem_files import CertificateFile, KeyFile
from dicomweb_cors_proxy.config.schema import Schema, settings_of
from dicomweb_cors_proxy.dicomweb.resources import Service

__all__ = [
    "POLICY_SCHEMA",
    "SCHEMA",
    "AccessAuth",
    "AccessSettings",
    "CORSSettings",
    "LoggingSettings",
    "OriginPolicy",
    "ServerSettings",
    "SettingFields",
    "UpstreamAuth",
    "UpstreamSettings",
]

ResourcePolicy = Literal["cross-origin", "same-site", "same-origin"]


class UpstreamSettings(Group):
    """The archive: where its services are, and how they are reached."""

    url: ArchiveURL | None = Field(
        None,
        description="Root of the archive; required unless qido_url and wado_url are set.",
    )
    qido_url: ArchiveURL | None = Field(
        None, description="Root for searches (QIDO-RS), if it is not url."
    )
    wado_url: ArchiveURL | None = Field(
        None, description="Root for retrieval (WADO-RS), if it is not url."
    )
    stow_url: ArchiveURL | None = Field(
        None, description="Root for stores and deletes (STOW-RS), if it is not url."
    )
    ups_url: ArchiveURL | None = Field(
        None, description="Root for the worklist (UPS-RS), if it is not url."
    )
    wado_uri_url: ArchiveURL | None = Field(
        None, description="WADO-URI endpoint, served at {base_path}/wado; unset: not served."
    )
    aliases: tuple[ArchiveURL, ...] = Field(
        (), description="Other base URLs by which the archive names itself in its responses."
    )
    connect_timeout: Seconds = Field(
        5, description="Seconds to wait for a connection to the archive, then 504."
    )
    read_timeout: Seconds = Field(
        60,
        description="Seconds to wait for the archive, then 504; more if it reads from tape.",
    )
    pool_timeout: Seconds = Field(
        10, description="Seconds to wait for a free connection, then 503."
    )
    max_connections: Count = Field(
        100, description="Maximum number of connections to each host of the archive."
    )
    transport: Literal["native", "httpx"] = Field(
        "native",
        description="HTTP client for the archive: native, or httpx, also with HTTP/2.",
    )
    verify_tls: bool = Field(default=True, description="Verify the archive's certificate.")
    ca_file: CertificateFile | None = Field(
        None,
        description="Path of the CAs to trust for the archive, PEM; unset: the system's.",
    )
    client_cert_file: CertificateFile | None = Field(
        None, description="Path of the proxy's certificate for the archive (mutual TLS), PEM."
    )
    client_key_file: KeyFile | None = Field(
        None, description="Path of the private key of client_cert_file, PEM, without a passphrase."
    )
    auth: UpstreamAuth = UpstreamAuth()

    def service_urls(self) -> dict[Service, str]:
        """Return the URL that each service is served from; those without one are not served."""
        urls = {
            Service.ROOT: self.url or self.qido_url,
            Service.SEARCH: self.qido_url or self.url,
            Service.RETRIEVE: self.wado_url or self.url,
            Service.STORE: self.stow_url or self.url,
            Service.WORKLIST: self.ups_url or self.url,
            Service.WADO_URI: self.wado_uri_url,
        }
        return {service: url for service, url in urls.items() if url is not None}

    @property
    def uses_tls(self) -> bool:
        """Return whether any service is reached over https."""
        return any(url.startswith("https:") for url in self.service_urls().values())


class OriginPolicy(Group):
    """An entry of `cors.per_origin`; what is None is inherited from `cors`."""

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] | None = None
    allow_headers: tuple[str, ...] | None = None
    expose_headers: tuple[str, ...] | None = None
    max_age: MaxAge | None = None
    allow_credentials: bool | None = None
    dangerously_allow_insecure_origins: bool | None = None

    def own(self) -> dict[str, Any]:
        """Return the keys that are not inherited."""
        return self.model_dump(exclude_none=True)


class CORSSettings(Group):
    """The policy for viewers on other origins."""

    allow_origins: tuple[str, ...] = Field(
        (),
        description="Required: https://v.example, https://*.example.edu, "
        'https://*--v.netlify.app, http://localhost:*, "*".',
    )
    allow_methods: tuple[str, ...] = Field(
        ("GET", "HEAD"),
        description='Methods that pages may use, or "*"; GET, HEAD and POST always pass.',
    )
    allow_headers: tuple[str, ...] = Field(
        (
            "accept",
            "authorization",
            "content-type",
            "if-modified-since",
            "if-none-match",
            "range",
        ),
        description='Request headers that pages may set, or "*".',
    )
    expose_headers: tuple[str, ...] = Field(
        (
            "accept-ranges",
            "content-disposition",
            "content-length",
            "content-location",
            "content-range",
            "etag",
            "last-modified",
            "link",
            "location",
            "retry-after",
            "warning",
            "www-authenticate",
        ),
        description='Response headers that pages may read, or "*" (not with allow_credentials).',
    )
    max_age: MaxAge = Field(
        7200, description="Seconds for which browsers may cache a preflight, -1 to 86400."
    )
    allow_credentials: bool = Field(
        default=False, description="Allow pages to send cookies and HTTP authentication."
    )
    dangerously_allow_insecure_origins: bool = Field(
        default=False, description="Allow credentials from pages over plain http."
    )
    per_origin: tuple[OriginPolicy, ...] = Field(
        (),
        description="Policies by origin: the keys above, unset ones inherited; first match wins.",
    )


class AccessSettings(Group):
    """The requests that are forwarded to the archive."""

    mode: Literal["read-only", "read-write"] = Field(
        "read-only", description="Access to the archive: read-only or read-write."
    )
    dangerously_allow_writes_from_any_origin: bool = Field(
        default=False,
        description="Allow read-write together with the origin *: any web page may then write.",
    )
    extra_paths: tuple[ExtraPath, ...] = Field(
        (),
        description="Paths and methods beyond DICOMweb's: /reports/*; * is one segment, ** any "
        "number; a slash at the end counts.",
    )
    auth: AccessAuth = AccessAuth()


class ServerSettings(Group):
    """The listener, its limits and its timeouts."""

    host: ListenAddress = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 or :: for all interfaces."
    )
    port: Port = Field(8080, description="Port to listen on; 0: any that is free.")
    base_path: BasePath = Field(
        "/dicom-web", description="Path of the DICOMweb root; / is allowed."
    )
    allowed_hosts: tuple[AllowedHost, ...] = Field(
        (),
        description="Accepted Host values, with port; others get 421 (DNS rebinding); empty: any.",
    )
    workers: Workers = Field(
        1,
        description="Number of processes that serve; limits such as max_connections hold for each.",
    )
    http2: bool = Field(
        True,  # noqa: FBT003
        description="Speak HTTP/2 to clients that want it: chosen in the TLS handshake, or begun "
        "directly on a plain port.",
    )
    max_connections: Count = Field(
        2000,
        description="Maximum number of client connections; the longest idle is closed for a new "
        "one, and if none is idle, new ones wait.",
    )
    tls_cert_file: CertificateFile | None = Field(
        None,
        description="Path of the certificate chain for clients, PEM; unset: plain http.",
    )
    tls_key_file: KeyFile | None = Field(
        None, description="Path of the private key of tls_cert_file, PEM, without a passphrase."
    )
    trusted_proxies: tuple[PeerNetwork, ...] = Field(
        (), description="Addresses or networks whose X-Forwarded-* headers are trusted."
    )
    max_header_bytes: HeadLimit = Field(
        65536, description="Maximum size of a request's head in bytes, otherwise 431."
    )
    max_target_bytes: HeadLimit = Field(
        16384, description="Maximum size of path and query in bytes, otherwise 414."
    )
    max_body_bytes: BodyLimit | None = Field(
        None,
        description="Maximum size of a request's body in bytes, otherwise 413; unset: no limit.",
    )
    max_headers: Count = Field(100, description="Maximum number of header lines, otherwise 431.")
    max_concurrent_requests: Count = Field(
        1000,
        description="Maximum number of requests at a time, otherwise 503; preflights don't count.",
    )
    instance_name: Token = Field(
        "dicomweb-cors-proxy",
        description="Name of the proxy in Via; chained proxies need different names.",
    )
    header_timeout: Seconds = Field(
        10, description="Seconds for a client to send a request's head, then 408."
    )
    body_timeout: Seconds = Field(
        60, description="Seconds to wait for the next byte of a client's body, then 408."
    )
    write_timeout: Seconds = Field(
        60,
        description="Seconds to wait for a client to read a byte, then its connection is closed.",
    )
    keepalive_timeout: Seconds = Field(
        75,
        description="Seconds to keep idle connections open; set above a load balancer's timeout.",
    )
    drain_delay: NonNegativeSeconds = Field(
        0,
        description="Seconds to keep listening after SIGTERM, while /readyz returns 503.",
    )
    shutdown_timeout: NonNegativeSeconds = Field(
        30, description="Seconds for running requests to finish after SIGTERM."
    )


class LoggingSettings(Group):
    """The level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    format: Literal["console", "json"] = Field(
        "console", description="Format of lines: console for people, json for programs."
    )


class SettingFields(BaseModel):
    """The settings by group, each valid on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upstream: UpstreamSettings = UpstreamSettings()
    cors: CORSSettings = CORSSettings()
    access: AccessSettings = AccessSettings()
    rewrite_urls: bool = Field(
        default=True,
        description="Rewrite the archive's URLs in responses to the proxy's.",
    )
    compress: bool = Field(
        default=True,
        description="Compress JSON and XML with gzip where the client accepts it.",
    )
    repair_accept: bool = Field(
        default=True,
        description="Restore quotes that viewers leave out of Accept.",
    )
    public_url: PublicURL | None = Field(
        None, description="URL at which browsers reach base_path; pages of its origin may write."
    )
    cross_origin_resource_policy: ResourcePolicy | None = Field(
        "cross-origin",
        description="The header: cross-origin, same-site, same-origin; null: the archive's own.",
    )
    server: ServerSettings = ServerSettings()
    logging: LoggingSettings = LoggingSettings()

    def value(self, key: str) -> tuple[object, bool]:
        """Return the value of a dotted key, and whether it has been set."""
        *groups, name = key.split(".")
        group: BaseModel = self
        for each in groups:
            group = getattr(group, each)
        return getattr(group, name), name in group.model_fields_set


SCHEMA: Final = Schema(settings_of(SettingFields))
POLICY_SCHEMA: Final = Schema(settings_of(OriginPolicy))
