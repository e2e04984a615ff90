"""Real DICOM instances: pydicom's public samples, and one made here."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@dataclass(frozen=True, slots=True)
class Sample:
    """A DICOM instance, its file and its place in DICOMweb."""

    dataset: FileDataset
    data: bytes

    @classmethod
    def load(cls, name: str) -> Self:
        data = (FILES / name).read_bytes()
        return cls(pydicom.dcmread(BytesIO(data)), data)

    @property
    def study(self) -> str:
        return str(self.dataset.StudyInstanceUID)

    @property
    def series(self) -> str:
        return str(self.dataset.SeriesInstanceUID)

    @property
    def uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    @property
    def path(self) -> str:
        return f"studies/{self.study}/series/{self.series}/instances/{self.uid}"


def encapsulated_pdf() -> Sample:
    """Return a new report with UIDs of its own."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = BytesIO()
    report = FileDataset(file, {}, file_meta=meta, preamble=bytes(128))
    report.SOPClassUID = meta.MediaStorageSOPClassUID
    report.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    report.StudyInstanceUID = generate_uid()
    report.SeriesInstanceUID = generate_uid()
    report.Modality = "DOC"
    report.PatientName = "Sample^Report"
    report.PatientID = "SAMPLE-1"
    report.MIMETypeOfEncapsulatedDocument = "application/pdf"
    report.EncapsulatedDocument = b"%PDF-1.4\n\n%%EOF\n"
    report.save_as(file, enforce_file_format=True)
    return Sample(report, file.getvalue())


CT = Sample.load("CT_small.dcm")
MR = Sample.load("MR_small.dcm")
MULTI_FRAME = Sample.load("rtdose.dcm")
RGB = Sample.load("examples_rgb_color.dcm")
REPORT = encapsulated_pdf()
ALL = (CT, MR, MULTI_FRAME, RGB, REPORT)
