"""Attributes as a DICOM file and as DICOM JSON, pixels as PNG: no more than the demo needs."""

from __future__ import annotations

import struct
import zlib
from typing import Final
from uuid import NAMESPACE_URL, uuid5

Value = str | int | float | tuple[str | int | float, ...]
Attributes = dict[str, Value]

EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"

# Keyword: tag and value representation (PS3.6).
DICTIONARY: Final = {
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "StudyDate": (0x00080020, "DA"),
    "StudyTime": (0x00080030, "TM"),
    "AccessionNumber": (0x00080050, "SH"),
    "Modality": (0x00080060, "CS"),
    "StudyDescription": (0x00081030, "LO"),
    "SeriesDescription": (0x0008103E, "LO"),
    "PatientName": (0x00100010, "PN"),
    "PatientID": (0x00100020, "LO"),
    "SliceThickness": (0x00180050, "DS"),
    "StudyInstanceUID": (0x0020000D, "UI"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "StudyID": (0x00200010, "SH"),
    "SeriesNumber": (0x00200011, "IS"),
    "InstanceNumber": (0x00200013, "IS"),
    "ImagePositionPatient": (0x00200032, "DS"),
    "ImageOrientationPatient": (0x00200037, "DS"),
    "FrameOfReferenceUID": (0x00200052, "UI"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "PixelSpacing": (0x00280030, "DS"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "RescaleType": (0x00281054, "LO"),
}


def uid(name: str) -> str:
    """Make a UID that is always the same for `name` (PS3.5 annex B.2)."""
    return f"2.25.{uuid5(NAMESPACE_URL, f'urn:dicomweb-cors-proxy:demo:{name}').int}"


def part10(attributes: Attributes, pixels: bytes) -> bytes:
    """Write a DICOM file (PS3.10), explicit VR little endian."""
    meta = b"".join(
        (
            _element(0x00020001, "OB", b"\0\1"),
            _element(0x00020002, "UI", _binary("UI", attributes["SOPClassUID"])),
            _element(0x00020003, "UI", _binary("UI", attributes["SOPInstanceUID"])),
            _element(0x00020010, "UI", _binary("UI", EXPLICIT_VR_LITTLE_ENDIAN)),
            _element(0x00020012, "UI", _binary("UI", uid("implementation"))),
        )
    )
    return b"".join(
        (
            bytes(128),
            b"DICM",
            _element(0x00020000, "UL", struct.pack("<I", len(meta))),
            meta,
            *(_element(tag, vr, _binary(vr, value)) for tag, vr, value in _sorted(attributes)),
            _element(0x7FE00010, "OW", pixels),
        )
    )


def dicom_json(attributes: Attributes) -> dict[str, object]:
    """Write attributes in the DICOM JSON model (PS3.18 annex F)."""
    return {
        f"{tag:08X}": {
            "vr": vr,
            "Value": [
                {"Alphabetic": each}
                if vr == "PN"
                else float(each)
                if vr == "DS"
                else int(each)
                if vr == "IS"
                else each
                for each in _values(value)
            ],
        }
        for tag, vr, value in _sorted(attributes)
    }


def png(grey: bytes, width: int) -> bytes:
    """Write 8-bit grey pixels as PNG."""
    rows = [grey[start : start + width] for start in range(0, len(grey), width)]
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _sorted(attributes: Attributes) -> list[tuple[int, str, Value]]:
    return sorted((*DICTIONARY[keyword], value) for keyword, value in attributes.items())


def _values(value: Value) -> tuple[str | int | float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _binary(vr: str, value: Value) -> bytes:
    if vr == "US":
        return b"".join(struct.pack("<H", each) for each in _values(value))
    text = "\\".join(map(str, _values(value))).encode("ascii")
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


def _element(tag: int, vr: str, value: bytes) -> bytes:
    length = "<2xI" if vr in {"OB", "OW"} else "<H"
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii")
    return head + struct.pack(length, len(value)) + value
