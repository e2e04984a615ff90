// The three servers are on the same host, on three ports in a row.
const port = Number(location.port || 80);
const root = (offset) => `http://${location.hostname}:${port + offset}/dicom-web`;

export const ROOTS = { proxy: root(1), archive: root(2) };
export const PORTS = { page: port, proxy: port + 1, archive: port + 2 };

export const JSON_TYPE = "application/dicom+json";
export const QUOTED = 'multipart/related; type="application/octet-stream"';
export const UNQUOTED = QUOTED.replaceAll('"', "");

export const TAGS = {
  patientName: "00100010",
  studyDate: "00080020",
  modality: "00080060",
  study: "0020000D",
  series: "0020000E",
  instance: "00080018",
  number: "00200013",
  description: "00081030",
  spacing: "00280030",
  thickness: "00180050",
  rows: "00280010",
  columns: "00280011",
  bitsStored: "00280101",
  windowCenter: "00281050",
  windowWidth: "00281051",
  intercept: "00281052",
};

/** The first value of an attribute in a DICOM JSON object. */
export function value(dataset, name) {
  const [first] = dataset[TAGS[name]].Value;
  return first.Alphabetic ?? first;
}

export const seriesPath = (dataset) =>
  `studies/${value(dataset, "study")}/series/${value(dataset, "series")}`;

export const framePath = (dataset) =>
  `${seriesPath(dataset)}/instances/${value(dataset, "instance")}/frames/1`;

export const json = ({ body }) => JSON.parse(new TextDecoder().decode(body));

/** The body of the first part of a multipart response. */
export function firstPart({ body, type }) {
  const boundary = /boundary="?([^";]+)/.exec(type)[1];
  const text = new TextDecoder("latin1").decode(body); // one character a byte
  const start = text.indexOf("\r\n\r\n") + 4;
  return body.slice(start, text.indexOf(`\r\n--${boundary}`, start));
}
