"""The settings of logins: the proxy's at the archive, and the clients' at the proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dicomweb_cors_proxy.config.groups import Group
from dicomweb_cors_proxy.config.kinds import (
    Audience,
    ClientID,
    IssuerURL,
    KeySetURL,
    Leeway,
    Password,
    Scope,
    ScopeName,
    SignatureAlgorithm,
    TokenSecret,
    TokenURL,
    UserName,
)

__all__ = ["AccessAuth", "UpstreamAuth"]

UpstreamLogin = Literal["none", "basic", "bearer", "oauth2_client_credentials", "google", "azure"]


class UpstreamAuth(Group):
    """The credentials that the proxy itself shows to the archive."""

    type: UpstreamLogin = Field(
        "none",
        description="Login of the proxy: none, basic, bearer, oauth2_client_credentials, google or "
        "azure.",
    )
    username: UserName | None = Field(None, description="User name for basic.")
    password: Password | None = Field(
        None, description="Password for basic; best kept in a secret file."
    )
    token: TokenSecret | None = Field(
        None, description="Token for bearer; best kept in a secret file."
    )
    token_file: Path | None = Field(
        None,
        description="Path of a file with the token for bearer, read again when it changes.",
    )
    token_url: TokenURL | None = Field(
        None, description="URL at which oauth2_client_credentials requests access tokens."
    )
    client_id: ClientID | None = Field(
        None, description="OAuth client ID of the proxy; for azure that of its identity."
    )
    client_secret: Password | None = Field(
        None, description="Secret of client_id; best kept in a secret file."
    )
    scope: Scope | None = Field(
        None,
        description="OAuth scope to request, if the server requires one; google and azure have a "
        "default.",
    )
    audience: Audience | None = Field(
        None, description="Audience to request, if the server requires one, as Auth0 does."
    )


class AccessAuth(Group):
    """The login that clients need; preflights and the operator's endpoints never need it."""

    type: Literal["none", "jwt"] = Field(
        "none", description="Login of clients: none, or jwt, an access token that is verified here."
    )
    issuer: IssuerURL | None = Field(
        None, description="URL of the identity provider; its keys are found by OpenID discovery."
    )
    jwks_url: KeySetURL | None = Field(
        None, description="URL of the provider's keys, instead of by discovery."
    )
    audience: tuple[Audience, ...] = Field(
        (), description="Required with jwt: accepted audiences; a token has to name one in aud."
    )
    required_scopes: tuple[ScopeName, ...] = Field(
        (), description="Scopes of which a token has to have all, otherwise 403."
    )
    algorithms: tuple[SignatureAlgorithm, ...] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"),
        description="Accepted signature algorithms; only asymmetric ones are possible.",
    )
    leeway: Leeway = Field(60, description="Seconds by which the provider's clock may differ.")
    forward: bool = Field(
        default=False,
        description="Forward the client's token to the archive; not with upstream.auth.",
    )
