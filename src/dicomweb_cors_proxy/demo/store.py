"""Store the sample series in an archive: `python -m dicomweb_cors_proxy.demo.store URL`.

Compose starts containers together, so the archive may need some time before it accepts requests.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import httpx

from dicomweb_cors_proxy.demo import sample
from dicomweb_cors_proxy.demo.encoding import part10

MAX_WAIT: Final = 120.0  # seconds until the archive accepts a connection
RETRY_DELAY: Final = 0.5  # seconds

_TIMEOUT: Final = 60.0  # seconds
_BOUNDARY: Final = "part-of-the-phantom"


class StoreError(Exception):
    """The series is not stored; the message says why."""


def store(root: str, *, max_wait: float = MAX_WAIT) -> None:
    """Store the series at the DICOMweb root `root` (PS3.18 §10.5), when it can be reached.

    Raises StoreError.
    """
    end = time.monotonic() + max_wait
    with httpx.Client(timeout=_TIMEOUT, trust_env=False) as client:
        while True:
            try:
                response = _post(client, root)
            except httpx.TransportError as error:
                if time.monotonic() > end:
                    raise StoreError(
                        f"{root} cannot be reached: {type(error).__name__}. Check the URL."
                    ) from error
                time.sleep(RETRY_DELAY)
            else:
                break
    count = _stored(response)
    if count < len(sample.INSTANCES):
        raise StoreError(
            f"{root} stored {count} of {len(sample.INSTANCES)} images: status "
            f"{response.status_code}. Its log says why."
        )


def _stored(response: httpx.Response) -> int:
    """Count the Referenced SOP Sequence (PS3.18 §10.5.3.2)."""
    try:
        match response.json():
            case {"00081199": {"Value": list(instances)}} if response.is_success:
                return len(instances)
    except ValueError:
        pass
    return 0


def _post(client: httpx.Client, root: str) -> httpx.Response:
    parts = (
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n"
        % (_BOUNDARY.encode("ascii"), part10(instance, sample.pixels(instance)))
        for instance in sample.INSTANCES
    )
    return client.post(
        f"{root}/studies",
        content=b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode("ascii"),
        headers={
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
        },
    )


def main() -> None:
    """Store the series at the root that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m dicomweb_cors_proxy.demo.store URL")
    try:
        store(sys.argv[1].rstrip("/"))
    except StoreError as error:
        sys.exit(str(error))
    print(f"Stored {len(sample.INSTANCES)} images at {sys.argv[1]}")  # noqa: T201


if __name__ == "__main__":
    main()
