"""A DICOMweb archive as strict as some, with one study and without a word of CORS.

Searches and retrievals (PS3.18 §8.3, §10.4, §10.6). Whatever else one asks of its resources, store
or preflight, gets a 405.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dicomweb_cors_proxy.demo import phantom, sample
from dicomweb_cors_proxy.demo.encoding import (
    DICTIONARY,
    EXPLICIT_VR_LITTLE_ENDIAN,
    dicom_json,
    part10,
    png,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from starlette.requests import Request

    from dicomweb_cors_proxy.demo.encoding import Attributes

    Endpoint = Callable[[Request], Awaitable[Response]]

ROOT: Final = "/dicom-web"

_BOUNDARY: Final = "part-of-the-phantom"
_THUMBNAIL: Final = 4  # one of so many pixels
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = rf'\s*;\s*{_NAME}=(?:{_NAME}|"[^"\\]*")'
_MEDIA_RANGE: Final = re.compile(rf"\s*({_NAME}/{_NAME})((?:{_PARAMETER})*)\s*")
_TYPE: Final = re.compile(r';\s*type="?([^";]*)', re.IGNORECASE)


def create_archive() -> Starlette:
    """Make the archive's application; its DICOMweb root is `ROOT`."""
    study = "/studies/{StudyInstanceUID}"
    series = study + "/series/{SeriesInstanceUID}"
    instance = series + "/instances/{SOPInstanceUID}"
    frames = instance + "/frames/{frames}"
    resources: dict[str, Endpoint] = {
        "/studies": _search(*sample.STUDY),
        "/series": _search(*sample.SERIES),
        study + "/series": _search(*sample.SERIES),
        "/instances": _search(*sample.IMAGE),
        study + "/instances": _search(*sample.IMAGE),
        series + "/instances": _search(*sample.IMAGE),
        frames: _frames,
        frames + "/rendered": _rendered,
        instance + "/rendered": _rendered,
    }
    for level in (study, series, instance):
        resources |= {
            level: _instances,
            level + "/metadata": _metadata,
            level + "/thumbnail": _thumbnail,
        }
    app = Starlette(routes=[Route(ROOT + path, answer) for path, answer in resources.items()])
    app.router.redirect_slashes = False
    return app


def _search(uid: str, *returned: str) -> Endpoint:
    """Make a search for the entities that `uid` tells apart, which answers with `returned`."""

    async def answer(request: Request) -> Response:
        _negotiate(request, "application/dicom+json", "application/json")
        keys = dict(request.query_params)
        offset, limit = (_count(keys, name) for name in ("offset", "limit"))
        found = {
            instance[uid]: {keyword: instance[keyword] for keyword in (uid, *returned)}
            for instance in _holdings(request)
            if _matches(instance, keys)
        }
        return _json(list(found.values())[offset:][:limit])

    return answer


async def _metadata(request: Request) -> Response:
    _negotiate(request, "application/dicom+json", "application/json")
    return _json(_requested(request))


async def _instances(request: Request) -> Response:
    media_type = _negotiate(request, 'multipart/related; type="application/dicom"')
    files = (part10(instance, sample.pixels(instance)) for instance in _requested(request))
    return StreamingResponse(_parts("application/dicom", files), media_type=media_type)


async def _frames(request: Request) -> Response:
    media_type = _negotiate(request, 'multipart/related; type="application/octet-stream"')
    [instance] = _requested(request)
    part = f"application/octet-stream; transfer-syntax={EXPLICIT_VR_LITTLE_ENDIAN}"
    frames = [sample.pixels(instance)] * len(request.path_params["frames"].split(","))
    return Response(b"".join(_parts(part, frames)), media_type=media_type)


async def _rendered(request: Request) -> Response:
    return _image(request, every=1)


async def _thumbnail(request: Request) -> Response:
    return _image(request, every=_THUMBNAIL)


def _image(request: Request, *, every: int) -> Response:
    media_type = _negotiate(request, "image/png")
    instances = _requested(request)
    pixels = sample.pixels(instances[len(instances) // 2])
    grey = phantom.window(pixels, sample.WINDOW_CENTER, sample.WINDOW_WIDTH, every=every)
    return Response(png(grey, phantom.SIZE // every), media_type=media_type)


def _holdings(request: Request) -> list[Attributes]:
    """Return the instances below the UIDs in the path."""
    uids = {name: uid for name, uid in request.path_params.items() if name != "frames"}
    return [instance for instance in sample.INSTANCES if uids.items() <= instance.items()]


def _requested(request: Request) -> list[Attributes]:
    instances = _holdings(request)
    # All images have a single frame.
    frames = request.path_params.get("frames", "1").split(",")
    if not instances or set(frames) != {"1"}:
        raise HTTPException(404, "The archive does not hold this.")
    return instances


def _matches(instance: Attributes, keys: dict[str, str]) -> bool:
    """Return whether attributes match a search (PS3.4 §C.2.2.2: single values, wildcards)."""
    return all(
        fnmatchcase(str(instance[keyword]), keys[name])
        for keyword, (tag, _) in DICTIONARY.items()
        for name in (keyword, f"{tag:08X}")
        if name in keys
    )


def _count(keys: dict[str, str], name: str) -> int | None:
    value = keys.get(name)
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,9}", value):
        raise HTTPException(400, f"{name} is a number.")
    return int(value)


def _negotiate(request: Request, *offers: str) -> str:
    """Return the first offer that Accept names, in the letter of its grammar (RFC 9110 §12.5.1).

    So `type=application/dicom`, whose slash wants quotes, is no media range: 406.
    """
    for text in request.headers.get("accept", "*/*").split(","):
        if media_range := _MEDIA_RANGE.fullmatch(text):
            name, parameters = media_range.groups()
            kind = _TYPE.search(parameters)
            pattern = f'{name}; type="{kind[1]}"' if kind else name
            for offer in offers:
                media_type, _, part = offer.partition(";")
                if fnmatchcase(offer if kind else media_type, pattern.lower()):
                    return f"{offer}; boundary={_BOUNDARY}" if part else offer
    raise HTTPException(406, f"Accept does not name {' or '.join(offers)}.")


def _json(entities: Iterable[Attributes]) -> Response:
    answer = [dicom_json(attributes) for attributes in entities]
    return JSONResponse(answer, media_type="application/dicom+json")


def _parts(media_type: str, bodies: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a multipart body (RFC 2046 §5.1.1)."""
    for body in bodies:
        yield f"--{_BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode("ascii")
        yield body
        yield b"\r\n"
    yield f"--{_BOUNDARY}--\r\n".encode("ascii")
