"""The guide for Static DICOMweb, in front of a web server with files in the places that it says."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.support.guides import blocks, guide
from tests.support.probing import NGINX, VIEWER
from tests.support.processes import Child
from tests.support.proxy import Proxy, serving
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs Debian's nginx")

STUDY = "studies/1.2.3"
SERIES = f"{STUDY}/series/1.2.3.4"
INSTANCE = f"{SERIES}/instances/1.2.3.4.5"
BULK_DATA = f"{STUDY}/bulkdata/ab/cd/0123ef.mht.gz"
FRAME = bytes(range(256)) * 8
METADATA = [{"00420011": {"vr": "OB", "BulkDataURI": "../../bulkdata/ab/cd/0123ef.mht.gz"}}]
FILES = {
    "studies/index.json.gz": gzip.compress(b'[{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}]'),
    f"{STUDY}/series/index.json.gz": gzip.compress(b"[]"),
    f"{SERIES}/metadata.gz": gzip.compress(json.dumps(METADATA).encode()),
    f"{INSTANCE}/frames/1": FRAME,
    f"{INSTANCE}/htj2k/1": FRAME,
    f"{INSTANCE}/jls/1": FRAME,
    f"{INSTANCE}/lossy/1": FRAME,
    f"{INSTANCE}/rendered/index.jpg": b"jpeg",
    BULK_DATA: gzip.compress(b"bulk data"),
}
LOCATIONS = """
location ~ /(studies|series)$ {
  default_type application/json; add_header Content-Encoding gzip;
  try_files $uri/index.json.gz =404;
}
location ~ /metadata$ {
  default_type application/json; add_header Content-Encoding gzip;
  try_files $uri.gz =404;
}
location ~ [.]mht[.]gz$ {
  types {} default_type multipart/related; add_header Content-Encoding gzip;
}
location ~ /rendered/ { types {} default_type image/jpeg; index index.jpg; }
location / { default_type multipart/related; }
"""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve the files below /dicomweb; yields the DICOMweb root."""
    for name, content in FILES.items():
        file = folder / "files" / "dicomweb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for path in (folder, *(folder / "files").rglob("*")):  # nginx may give up root's rights
        path.chmod(0o755)
    port = free_port()
    spools = "\n".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr notice;
        events {{}}
        http {{
          access_log off; {spools}
          server {{ listen 127.0.0.1:{port}; root {folder}/files; {LOCATIONS} }}
        }}
        """
    )
    assert NGINX is not None
    with Child([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as child:
        child.wait_for("start worker process|getrlimit")
        yield f"http://127.0.0.1:{port}/dicomweb"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("static")
    settings: dict[str, Any] = yaml.safe_load(blocks(guide("static-dicomweb"), "yaml")[0].text)
    assert settings["cors"]["allow_origins"] == [VIEWER]
    with web_server(folder) as root:
        settings["upstream"]["url"] = root
        with serving(settings, folder) as running:
            yield running


def get(proxy: Proxy, path: str, **headers: str) -> httpx.Response:
    response = httpx.get(
        f"{proxy.url}/{path}", headers={"Origin": VIEWER} | headers, trust_env=False
    )
    assert response.headers["Access-Control-Allow-Origin"] == VIEWER
    return response


@pytest.mark.parametrize("path", ["studies", f"{STUDY}/series"])
def test_searches_are_files(path: str, proxy: Proxy) -> None:
    response = get(proxy, path)
    assert (response.status_code, response.headers["Content-Encoding"]) == (200, "gzip")
    assert isinstance(response.json(), list)


def test_bulk_data_is_where_the_metadata_say(proxy: Proxy) -> None:
    (instance,) = get(proxy, f"{SERIES}/metadata").json()
    series = httpx.URL(f"{proxy.url}/{SERIES}/")
    assert str(series.join(instance["00420011"]["BulkDataURI"])) == f"{proxy.url}/{BULK_DATA}"
    response = get(proxy, BULK_DATA)
    assert (response.status_code, response.content) == (200, b"bulk data")


@pytest.mark.parametrize("kind", ["frames", "htj2k", "jls", "lossy"])
def test_frames_in_every_encoding_come_whole_and_in_parts(kind: str, proxy: Proxy) -> None:
    assert get(proxy, f"{INSTANCE}/{kind}/1").content == FRAME
    part = get(proxy, f"{INSTANCE}/{kind}/1", Range="bytes=0-99")
    assert (part.status_code, part.content) == (206, FRAME[:100])
    assert part.headers["Content-Range"] == f"bytes 0-99/{len(FRAME)}"
    assert "content-range" in part.headers["Access-Control-Expose-Headers"]


def test_the_servers_redirect_to_a_folder_can_be_followed(proxy: Proxy) -> None:
    response = get(proxy, f"{INSTANCE}/rendered")
    assert response.status_code == 301
    assert response.headers["Location"] == f"{proxy.url}/{INSTANCE}/rendered/"
    followed = get(proxy, f"{INSTANCE}/rendered/")
    assert (followed.status_code, followed.content) == (200, b"jpeg")


def test_other_files_are_not_forwarded(proxy: Proxy) -> None:
    assert get(proxy, f"{INSTANCE}/other/1").status_code == 404
