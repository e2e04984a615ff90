// What proxy and archive saw of each request. Browsers show a script neither preflights nor the
// answers that they refuse it, so the servers record them and the page asks its own server.

import { element, milliseconds } from "./dom.js";

const OF_REQUEST = /^(origin|accept|authorization|access-control-request-.*)$/;
const OF_PREFLIGHT = /^(origin|access-control-request-.*)$/;
const OF_ANSWER = /^(access-control-.*|vary)$/;
const MISSING = "no access-control-allow-origin";

const own = async (path) => (await fetch(path)).json();

/** Does something, and returns its result and the exchanges about `path` since then. */
export async function watch(path, action) {
  const latest = await own("exchanges");
  const result = await action();
  const later = await own(`exchanges/${latest}`);
  return [result, later.filter(({ target }) => target.endsWith(`/${path}`))];
}

export const isPreflight = ({ method }) => method === "OPTIONS";

/** The value of a header in the response, undefined if there is none. */
export const answered = ({ answer }, name) => answer.find(([each]) => each === name)?.[1];

/** The value of a header in the request. */
export const asked = ({ request }, name) => request.find(([each]) => each === name)?.[1];

/** A path as one reads it, without the UIDs. */
export function readable(path) {
  return path
    .replace(/(studies|series|instances)\/[0-9.]+/g, "$1/…")
    .replace("studies/…/series/…/instances/…", "…")
    .replace("studies/…/series/…", "…");
}

/** An exchange written out, folded unless `open`. */
export function transcript(exchange, open = !exchange.via) {
  const { at, via, method, target, status } = exchange;
  const good = via || answered(exchange, "access-control-allow-origin") !== undefined;
  const shown = isPreflight(exchange) ? OF_PREFLIGHT : OF_REQUEST;
  const request = exchange.request.filter(([name]) => shown.test(name));
  const answer = exchange.answer.filter(([name]) => OF_ANSWER.test(name));
  const details = element(
    "details",
    { class: "exchange", "data-method": method, "data-at": at },
    element(
      "summary",
      {},
      element("span", { class: "route" }, via ? "proxy → archive" : `browser → ${at}`),
      element("code", {}, `${method} ${readable(target.replace("/dicom-web/", ""))}`),
      element("span", { class: good ? "status good" : "status bad" }, `${status}`),
      element("span", { class: "time" }, milliseconds(exchange.milliseconds)),
    ),
    headers("asked", request),
    headers("answered", good ? answer : [[MISSING], ...answer]),
  );
  details.open = open;
  return details;
}

function headers(kind, lines) {
  const list = element("ul", { class: kind });
  for (const [name, value] of lines) {
    const cors = kind === "answered" && name.startsWith("access-control-");
    const line = element("li", { class: name === MISSING ? "missing" : cors ? "cors" : "plain" });
    line.append(element("b", {}, name), value === undefined ? "" : `: ${value}`);
    list.append(line);
  }
  return list;
}
