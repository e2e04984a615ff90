"""The archive's holdings: one CT series of the phantom, without a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.demo import phantom
from dicomweb_cors_proxy.demo.encoding import CT_IMAGE_STORAGE, uid

if TYPE_CHECKING:
    from dicomweb_cors_proxy.demo.encoding import Attributes

# Of each level, what a search answers; first the UID by which entities are told apart.
STUDY: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "StudyID",
)
SERIES: Final = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "SeriesDescription",
    "SeriesNumber",
)
IMAGE: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
)

WINDOW_CENTER: Final = 35
WINDOW_WIDTH: Final = 90

_STUDY: Final[Attributes] = {
    "StudyDate": "20250314",
    "StudyTime": "092653",
    "AccessionNumber": "PHANTOM1",
    "StudyDescription": "Synthetic head",
    "PatientName": "Phantom^Shepp-Logan",
    "PatientID": "PHANTOM",
    "StudyInstanceUID": uid("study"),
    "StudyID": "1",
}
_SERIES: Final[Attributes] = {
    "Modality": "CT",
    "SeriesDescription": f"{phantom.SLICES} slices",
    "SeriesInstanceUID": uid("series"),
    "SeriesNumber": 1,
}
_IMAGE: Final[Attributes] = {
    "SOPClassUID": CT_IMAGE_STORAGE,
    "SliceThickness": phantom.SLICE_SPACING,
    "ImageOrientationPatient": (1, 0, 0, 0, 1, 0),
    "FrameOfReferenceUID": uid("frame of reference"),
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": phantom.SIZE,
    "Columns": phantom.SIZE,
    "PixelSpacing": (phantom.PIXEL_SPACING, phantom.PIXEL_SPACING),
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "WindowCenter": WINDOW_CENTER,
    "WindowWidth": WINDOW_WIDTH,
    "RescaleIntercept": phantom.INTERCEPT,
    "RescaleSlope": 1,
    "RescaleType": "HU",
}


def _instance(index: int) -> Attributes:
    corner = (1 - phantom.SIZE) / 2 * phantom.PIXEL_SPACING
    return (
        _STUDY
        | _SERIES
        | _IMAGE
        | {
            "SOPInstanceUID": uid(f"instance {index}"),
            "InstanceNumber": index + 1,
            "ImagePositionPatient": (corner, corner, phantom.height(index)),
        }
    )


INSTANCES: Final = tuple(map(_instance, range(phantom.SLICES)))


def pixels(instance: Attributes) -> bytes:
    """Return an instance's pixel data."""
    return phantom.pixels(INSTANCES.index(instance))
