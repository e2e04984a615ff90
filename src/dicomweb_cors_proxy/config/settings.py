"""The settings: their names, types, defaults and descriptions.

`Settings(...)` takes values from Python; `loading.load` gathers them from flags, the
environment, secret files and a YAML file. Both report every issue at once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicomweb_cors_proxy.config.issues import ConfigurationError, SettingIssue, redacted
from dicomweb_cors_proxy.config.kinds import (
    AllowedHost,
    ArchiveURL,
    BasePath,
    BodyLimit,
    ClientID,
    Count,
    ExtraPath,
    HeadLimit,
    ListenAddress,
    MaxAge,
    NonNegativeSeconds,
    Password,
    PeerNetwork,
    Port,
    PublicURL,
    Scope,
    Seconds,
    Token,
    TokenSecret,
    TokenURL,
    UserName,
    Workers,
    is_eavesdrop_safe,
    own_origin,
)
from dicomweb_cors_proxy.config.pem_files import CertificateFile, KeyFile, key_fault, validity_fault
from dicomweb_cors_proxy.config.report import Effective, printable
from dicomweb_cors_proxy.config.schema import Schema, Setting, read_list
from dicomweb_cors_proxy.config.validation import droppable, independent, issue_of, without
from dicomweb_cors_proxy.cors.engine import CORSEngine
from dicomweb_cors_proxy.cors.policy import CORSPolicy
from dicomweb_cors_proxy.cors.problems import PolicyError
from dicomweb_cors_proxy.cors.problems import PolicyIssue as PolicyProblem
from dicomweb_cors_proxy.dicomweb.resources import Service
from dicomweb_cors_proxy.http.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

__all__ = ["POLICY_SCHEMA", "SCHEMA", "Settings"]

ResourcePolicy = Literal["cross-origin", "same-site", "same-origin"]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_list(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        """Take a text for a list, as variables have it: `*`, or one origin."""
        if isinstance(value, str) and info.field_name is not None:
            types = set(_types(cls.model_fields[info.field_name].annotation))
            if tuple in map(get_origin, types) and OriginPolicy not in types:
                with suppress(ValueError, RecursionError):
                    return read_list(value)
        return value


class UpstreamAuth(_Group):
    """The credentials that the proxy itself shows to the archive."""

    type: Literal["none", "basic", "bearer", "oauth2_client_credentials"] = Field(
        "none",
        description="Login of the proxy: none, basic, bearer or oauth2_client_credentials.",
    )
    username: UserName | None = Field(None, description="User name for basic.")
    password: Password | None = Field(
        None, description="Password for basic; best kept in a secret file."
    )
    token: TokenSecret | None = Field(
        None, description="Token for bearer; best kept in a secret file."
    )
    token_url: TokenURL | None = Field(
        None, description="URL at which oauth2_client_credentials requests access tokens."
    )
    client_id: ClientID | None = Field(None, description="OAuth client ID of the proxy.")
    client_secret: Password | None = Field(
        None, description="Secret of client_id; best kept in a secret file."
    )
    scope: Scope | None = Field(
        None, description="OAuth scope to request, if the server requires one."
    )

    def problems(self) -> Iterator[SettingIssue]:
        """Tell which fields are missing, and which belong to another type."""
        because_of = ("upstream.auth.type",)
        oauth = "oauth2_client_credentials"
        owners = {
            "username": "basic",
            "password": "basic",
            "token": "bearer",
            **dict.fromkeys(("token_url", "client_id", "client_secret", "scope"), oauth),
        }
        for name, owner in owners.items():
            subject = f"upstream.auth.{name}"
            is_set = getattr(self, name) is not None
            if self.type == owner and not is_set and name != "scope":
                reason = f"is missing; upstream.auth.type: {owner} needs it"
                if SCHEMA.settings[subject].is_secret:
                    reason += f", best in a secret file upstream__auth__{name}"
                yield SettingIssue(subject, reason, because_of=because_of)
            if self.type != owner and is_set:
                reason = f"is not for upstream.auth.type: {self.type}; leave it out, or set {owner}"
                yield SettingIssue(subject, reason, because_of=because_of)


class UpstreamSettings(_Group):
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
        (), description="Other base URLs by which the archive names itself in its answers."
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
        100, description="Connections to each host of the archive at any one time."
    )
    transport: Literal["native", "httpx"] = Field(
        "native",
        description="HTTP client for the archive: native, or httpx, also with HTTP/2.",
    )
    verify_tls: bool = Field(default=True, description="Verify the archive's certificate.")
    ca_file: CertificateFile | None = Field(
        None, description="Authorities that vouch for the archive, PEM; unset: the system's."
    )
    client_cert_file: CertificateFile | None = Field(
        None, description="Certificate that the proxy shows to the archive (mutual TLS), PEM."
    )
    client_key_file: KeyFile | None = Field(
        None, description="Private key of client_cert_file, PEM, without a passphrase."
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

    def warnings(self) -> Iterator[SettingIssue]:
        """Tell what is allowed and likely not meant."""
        for name in ("url", "qido_url", "wado_url", "stow_url", "ups_url"):
            url = getattr(self, name)
            if url is not None and not urlsplit(url).path.strip("/"):
                reason = (
                    f"{redacted(url)} has no path, but most archives serve DICOMweb below one, and "
                    "answer 404 elsewhere: Orthanc below /dicom-web, dcm4chee below "
                    "/dcm4chee-arc/aets/{AET}/rs"
                )
                yield SettingIssue(f"upstream.{name}", reason)
        if self.uses_tls and not self.verify_tls:
            reason = (
                "is false: whoever is between proxy and archive can read and change everything; "
                "set upstream.ca_file to trust the archive's own certificate"
            )
            yield SettingIssue("upstream.verify_tls", reason)
        if self.client_cert_file is not None and (fault := validity_fault(self.client_cert_file)):
            yield SettingIssue("upstream.client_cert_file", fault)

    def problems(self) -> Iterator[SettingIssue]:
        """Tell what these settings lack together."""
        if self.url is None:
            yield from self._missing_urls()
        yield from _pair_problems(
            "upstream.client_cert_file",
            self.client_cert_file,
            "upstream.client_key_file",
            self.client_key_file,
        )
        yield from self.auth.problems()

    def _missing_urls(self) -> Iterator[SettingIssue]:
        keys = ("upstream.qido_url", "upstream.wado_url")
        missing = [
            key for key, url in zip(keys, (self.qido_url, self.wado_url), strict=True) if not url
        ]
        if len(missing) == 1:
            reason = "is missing; without upstream.url, this one has to be set too"
            yield SettingIssue(missing[0], reason, because_of=("upstream.url",))
        elif missing:
            reason = (
                "is missing; set the root of the archive's DICOMweb services, "
                "such as http://orthanc:8042/dicom-web"
            )
            yield SettingIssue("upstream.url", reason, because_of=keys)


def _pair_problems(
    cert_key: str, certificate: Path | None, key_key: str, key: Path | None
) -> Iterator[SettingIssue]:
    """Check a certificate and its private key; `cert_key` and `key_key` are their settings."""
    if certificate is not None and key is not None:
        if fault := key_fault(certificate, key):
            yield SettingIssue(key_key, f"{redacted(key)} {fault}", because_of=(cert_key,))
    elif certificate is not key:
        missing, present = (cert_key, key_key) if certificate is None else (key_key, cert_key)
        reason = f"is missing; {present} needs it"
        yield SettingIssue(missing, reason, because_of=(present,))


class OriginPolicy(_Group):
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


class CORSSettings(_Group):
    """The policy for viewers on other origins."""

    allow_origins: tuple[str, ...] = Field(
        (),
        description='Required: https://v.example, https://*.example.edu, http://localhost:*, "*".',
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

    def policies(self) -> list[CORSPolicy]:
        """Compile the policies in the order in which they are tried."""
        return [CORSPolicy.compile(**keys) for keys in (*self._entries(), self._base())]

    def any_origin_keys(self) -> Iterator[str]:
        """Yield the keys of the origin lists that hold `*`."""
        if "*" in self.allow_origins:
            yield "cors.allow_origins"
        for index, policy in enumerate(self.per_origin):
            if "*" in policy.allow_origins:
                yield f"cors.per_origin[{index}].allow_origins"

    def problems(self) -> Iterator[SettingIssue]:
        """Tell what no policy can be made of."""
        return self._findings(_policy_problems)

    def warnings(self) -> Iterator[SettingIssue]:
        """Tell what is allowed and likely not meant."""
        return self._findings(lambda keys: CORSPolicy.compile(**keys).warnings)

    def _base(self) -> dict[str, Any]:
        return self.model_dump(exclude={"per_origin"})

    def _entries(self) -> Iterator[dict[str, Any]]:
        base = self._base()
        return (base | entry.own() for entry in self.per_origin)

    def _findings(
        self, judge: Callable[[dict[str, Any]], Iterable[PolicyProblem]]
    ) -> Iterator[SettingIssue]:
        """Judge all policies, and tell of what is inherited but once."""
        inherited = tuple(judge(self._base()))
        yield from (_full(problem, "cors") for problem in inherited)
        for index, keys in enumerate(self._entries()):
            own = self.per_origin[index].own()
            for problem in judge(keys):
                if problem.key in own or problem not in inherited:
                    yield _full(problem, f"cors.per_origin[{index}]")


def _policy_problems(keys: dict[str, Any]) -> tuple[PolicyProblem, ...]:
    try:
        CORSPolicy.compile(**keys)
    except PolicyError as error:
        return error.problems
    return ()


def _full(problem: PolicyProblem, section: str) -> SettingIssue:
    value = problem.value if problem.value == "[]" else redacted(problem.value)
    return SettingIssue(f"{section}.{problem.key}", f"{value} {problem.reason}")


class AccessSettings(_Group):
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
        description="Paths beyond DICOMweb's: /reports/*; * is one segment, ** any number.",
    )


class ServerSettings(_Group):
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
        1, description="Processes that serve; limits such as max_connections hold for each."
    )
    max_connections: Count = Field(
        2000,
        description="Maximum number of client connections; the longest idle is closed for a new "
        "one, and if none is idle, new ones wait.",
    )
    tls_cert_file: CertificateFile | None = Field(
        None,
        description="Certificate chain that the proxy shows to clients, PEM; unset: plain http.",
    )
    tls_key_file: KeyFile | None = Field(
        None, description="Private key of tls_cert_file, PEM, without a passphrase."
    )
    trusted_proxies: tuple[PeerNetwork, ...] = Field(
        (), description="Addresses or networks whose X-Forwarded-* headers are believed."
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
        "dicomweb-cors-proxy", description="Name in Via; chained proxies need different ones."
    )
    header_timeout: Seconds = Field(
        10, description="Seconds for a client to send a request's head, then 408."
    )
    body_timeout: Seconds = Field(
        60, description="Seconds without a byte of the client's body, then 408."
    )
    write_timeout: Seconds = Field(
        60, description="Seconds without the client taking a byte, then its connection is cut."
    )
    keepalive_timeout: Seconds = Field(
        75,
        description="Seconds to keep idle connections open; set above a load balancer's timeout.",
    )
    drain_delay: NonNegativeSeconds = Field(
        0,
        description="Seconds between /readyz turning 503 after SIGTERM and the listener closing.",
    )
    shutdown_timeout: NonNegativeSeconds = Field(
        30, description="Seconds for running requests to finish after SIGTERM."
    )

    def problems(self) -> Iterator[SettingIssue]:
        """Tell what these settings lack together."""
        return _pair_problems(
            "server.tls_cert_file", self.tls_cert_file, "server.tls_key_file", self.tls_key_file
        )


class LoggingSettings(_Group):
    """The level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    format: Literal["console", "json"] = Field(
        "console", description="Format of lines: console for people, json for programs."
    )


class Settings(BaseSettings):
    """A whole and valid configuration, from nested mappings of the keys.

        Settings(upstream={"url": "http://orthanc:8042/dicom-web"},
                 cors={"allow_origins": ["https://viewer.example"]})

    Reads neither files nor the environment, `load` does. Raises ConfigurationError.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

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

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _exposures: tuple[SettingIssue, ...] = PrivateAttr(())

    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep to what is passed: see pydantic-settings."""
        return (init_settings,)

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        """Report what pydantic finds in our words, and what else is wrong at the same time."""
        errors: list[ErrorDetails] = []
        try:
            settings = handler(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            settings = handler(without(data, {droppable(e["loc"]) for e in errors}))
        problems = [issue_of(error, SCHEMA, POLICY_SCHEMA) for error in errors]
        problems += independent(settings._broken_rules(), of=problems)  # noqa: SLF001
        if problems:
            raise ConfigurationError(problems)
        return settings

    def _broken_rules(self) -> Iterator[SettingIssue]:
        yield from self.upstream.problems()
        yield from self.cors.problems()
        yield from self._open_to_foreign_writes()
        yield from self.server.problems()

    def _open_to_foreign_writes(self) -> Iterator[SettingIssue]:
        """Tell which policies let any web page that a user opens change the archive."""
        access = self.access
        if access.mode != "read-write" or access.dangerously_allow_writes_from_any_origin:
            return
        switch = "access.dangerously_allow_writes_from_any_origin"
        for key in self.cors.any_origin_keys():
            reason = (
                "'*' lets any web page that a user opens write to the archive with access.mode: "
                f"read-write; list the origins of your viewers, or set {switch}: true"
            )
            yield SettingIssue(key, reason, because_of=("access.mode", switch))

    def _read(self, key: str) -> tuple[object, bool]:
        """Return the value of a dotted key, and whether it has been set."""
        *groups, name = key.split(".")
        group: BaseModel = self
        for each in groups:
            group = getattr(group, each)
        return getattr(group, name), name in group.model_fields_set

    @property
    def sources(self) -> dict[str, str]:
        """Return the source of each key's value: `default`, `flag`, `file x.yaml` and so on."""
        return {
            key: self._sources.get(key) or ("argument" if self._read(key)[1] else "default")
            for key in SCHEMA.settings
        }

    def effective(self) -> list[Effective]:
        """Return all settings as they are in force."""
        return [
            Effective(key, printable(self._read(key)[0]), source)
            for key, source in self.sources.items()
        ]

    def service_urls(self) -> dict[Service, str]:
        """Return the URL that each service is served from; those without one are not served."""
        return self.upstream.service_urls()

    def cors_engine(self) -> CORSEngine:
        """Compile the CORS policies."""
        own = None if self.public_url is None else own_origin(self.public_url)
        return CORSEngine(self.cors.policies(), own_origin=own)

    def warnings(self) -> tuple[str, ...]:
        """Tell, in sentences, what is allowed and likely not meant."""
        return tuple(map(str, (*self.cors.warnings(), *self._warnings(), *self._exposures)))

    def _warnings(self) -> Iterator[SettingIssue]:
        upstream, server = self.upstream, self.server
        yield from upstream.warnings()
        if server.tls_cert_file is not None and (fault := validity_fault(server.tls_cert_file)):
            yield SettingIssue("server.tls_cert_file", fault)
        if upstream.auth.type != "none":
            yield from self._exposure_warnings("upstream.auth")
        elif upstream.uses_tls and upstream.client_cert_file is not None:
            yield from self._exposure_warnings("upstream.client_cert_file")
        access = self.access
        if access.mode == "read-write" and next(self.cors.any_origin_keys(), None) is not None:
            reason = (
                "is true, so any web page that a user opens can change the archive; list the "
                "origins of your viewers"
            )
            yield SettingIssue("access.dangerously_allow_writes_from_any_origin", reason)
        if "/**" in access.extra_paths:
            reason = "'/**' opens every path of the archive, of its administration too; list those"
            yield SettingIssue("access.extra_paths", f"{reason} that are meant")
        for network in server.trusted_proxies:
            if network.endswith("/0"):
                reason = (
                    f"{redacted(network)} believes every client's X-Forwarded-*; list the proxies"
                )
                yield SettingIssue("server.trusted_proxies", reason)

    def _exposure_warnings(self, credentials: str) -> Iterator[SettingIssue]:
        """Tell how the archive lies open behind what the proxy shows it for everyone, by a key."""
        server, token_url = self.server, self.upstream.auth.token_url
        if not server.allowed_hosts:
            reason = (
                "is empty, so a page can rebind its host name to this proxy and read all that "
                f"{credentials} opens; list the hosts by which clients reach the proxy"
            )
            yield SettingIssue("server.allowed_hosts", reason)
        if server.tls_cert_file is None and not is_loopback(server.host):
            reason = (
                f"{redacted(server.host)} is reached from other machines, over plain http, and the "
                "proxy logs in for whoever comes; set server.tls_cert_file, or listen on "
                "127.0.0.1 behind a server with TLS"
            )
            yield SettingIssue("server.host", reason)
        for key in self.cors.any_origin_keys():
            reason = (
                f"'*' lets any page that a user opens read all that {credentials} opens; list "
                "the origins of your viewers"
            )
            yield SettingIssue(key, reason)
        if token_url is not None and not is_eavesdrop_safe(token_url):
            reason = (
                "is plain http: whoever is between proxy and server reads the client's secret; "
                "use https"
            )
            yield SettingIssue("upstream.auth.token_url", reason)


def _settings(group: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    for name, field in group.model_fields.items():
        key = f"{prefix}{name}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{key}.")
            continue
        types = set(_types(kind))
        is_list = get_origin(kind) is tuple
        yield Setting(
            key=key,
            description=field.description or "",
            default=field.default,
            form="json" if OriginPolicy in types else "list" if is_list else "text",
            is_secret=SecretStr in types,
        )


def _types(annotation: object) -> Iterator[object]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


SCHEMA: Final = Schema(_settings(Settings))
POLICY_SCHEMA: Final = Schema(_settings(OriginPolicy))
