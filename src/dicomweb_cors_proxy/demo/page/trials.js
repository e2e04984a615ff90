// One request, put together by the reader's switches, and why it ends as it does.

import { QUOTED, ROOTS, UNQUOTED } from "./dicomweb.js";
import { byId, element, prose } from "./dom.js";
import { answered, asked, isPreflight, readable, transcript, watch } from "./exchanges.js";

const HEADERS = {
  plain: { Accept: "*/*" },
  quoted: { Accept: QUOTED },
  unquoted: { Accept: UNQUOTED },
  authorization: { Authorization: `Basic ${btoa("demo:demo")}` },
  unlisted: { "X-Requested-With": "demo" },
};
const MISSING = "studies/2.25.1/series/2.25.2/instances/2.25.3/frames/1";

let count = 0;

/** Makes the switches work on the image whose frame is at `path`. */
export function openTrials(path) {
  const form = byId("trial");
  // Browsers keep a preflight's response by URL: another query, and they ask again.
  const again = () => run({ ...Object.fromEntries(new FormData(form)), path, count });
  const anew = () => {
    count += 1;
    return again();
  };
  form.addEventListener("change", anew);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    again();
  });
  return anew();
}

async function run(trial) {
  const outcome = byId("trial-outcome");
  outcome.ariaBusy = "true";
  const path = `${trial.resource === "missing" ? MISSING : trial.path}?try=${trial.count}`;
  const url = `${ROOTS[trial.server]}/${path}`;
  const options = { headers: HEADERS[trial.header], credentials: trial.credentials };
  const send = trial.page === "sandboxed" ? askFromSandbox : ask;
  const [result, exchanges] = await watch(path, () => send(url, options));
  if (trial.count !== count) return; // another switch since then

  const { status, body, error } = result;
  const [text, setting] = explain(trial, result, exchanges);
  byId("trial-code").textContent = source(trial, url, options);
  byId("trial-result").textContent =
    error ?? `Response ${status}, ${body.byteLength.toLocaleString("en")} bytes`;
  byId("trial-result").className = error ? "outcome bad" : "outcome good";
  byId("trial-reason").replaceChildren(...prose(text));
  byId("trial-setting").replaceChildren(...prose(setting));
  byId("trial-exchanges").replaceChildren(...exchanges.map((each) => transcript(each)));
  outcome.ariaBusy = "false";
}

function source({ page }, url, { headers, credentials }) {
  const [[name, value]] = Object.entries(headers);
  const key = name.includes("-") ? `"${name}"` : name;
  const quote = value.includes('"') ? "'" : '"';
  return `${page === "sandboxed" ? '// in <iframe sandbox="allow-scripts">\n' : ""}\
await fetch("${readable(url)}", {
  headers: { ${key}: ${quote}${value}${quote} },
  credentials: "${credentials}",
})`;
}

let sandbox;

/** As `ask`, from a page whose origin is null. */
async function askFromSandbox(url, options) {
  sandbox ??= new Promise((resolve) => {
    const frame = element("iframe", { sandbox: "allow-scripts", src: "frame.html", hidden: "" });
    frame.addEventListener("load", () => resolve(frame.contentWindow), { once: true });
    document.body.append(frame);
  });
  const { port1, port2 } = new MessageChannel();
  (await sandbox).postMessage({ url, options }, "*", [port2]);
  return new Promise((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
  });
}

/** From what was seen: a sentence on what happened, and the setting that governs it. */
function explain(trial, result, exchanges) {
  const preflight = exchanges.find(isPreflight);
  const actual = exchanges.find((each) => !isPreflight(each) && !each.via);
  const last = actual ?? preflight;
  if (!last) return ["No server saw the request. Is the demo still running?", "no setting"];
  if (trial.server === "archive") return explainArchive(last);
  return result.error ? explainRefusal(last) : explainSuccess(trial, preflight, result);
}

function explainArchive(last) {
  const text = isPreflight(last)
    ? `The browser asks first; the archive answers ${last.status} without CORS headers, so the ` +
      "request itself is never sent."
    : `The archive answered ${last.status}, but without CORS headers, so the browser withholds ` +
      "the response.";
  return [text, "no setting of this archive, nor of many others"];
}

/** The headers that a preflight asks for and its response does not list. */
function unlistedHeaders(preflight) {
  const listed = (answered(preflight, "access-control-allow-headers") ?? "").split(", ");
  const names = (asked(preflight, "access-control-request-headers") ?? "").split(",");
  return names.filter((name) => name && !listed.includes(name));
}

function explainRefusal(last) {
  if (isPreflight(last) && last.detail) {
    const text =
      "The proxy refuses the preflight, so the request itself is never sent. " +
      `Its reason: “${last.detail}”`;
    return [text, last.detail.replace(/.*(cors\.\w+).*/, "`$1`")];
  }
  const names = isPreflight(last) ? unlistedHeaders(last) : [];
  if (names.length) {
    const text =
      "The preflight's response lists the headers that pages may send. " +
      `\`${names.join("`, `")}\` is not among them, so the request itself is never sent. ` +
      "The browser's console (F12) says the same.";
    return [text, "`cors.allow_headers`"];
  }
  if (answered(last, "access-control-allow-origin") === undefined) {
    const text =
      `The response has no CORS headers for the origin \`${asked(last, "origin")}\`, which is that ` +
      "of any sandboxed frame on any site.";
    return [text, "`cors.allow_origins`"];
  }
  const text =
    "With credentials the browser wants `access-control-allow-credentials: true`, which the " +
    "proxy sends only where it is told to.";
  return [text, "`cors.allow_credentials`"];
}

const SUCCESSES = {
  plain: [
    "Nothing here makes the browser ask first, and the response names this page's origin.",
    "`cors.allow_origins`",
  ],
  quoted: [
    "Quotes in `Accept` make the browser ask first; the proxy answers that itself, and spares " +
      "the archive.",
    "`cors.allow_headers`",
  ],
  unquoted: [
    "Without quotes the browser has nothing to ask; the proxy puts them back for the archive, " +
      "which would answer 406.",
    "`repair_accept`",
  ],
  authorization: [
    "`Authorization` makes the browser ask first; the proxy grants it, and passes the header on " +
      "to the archive.",
    "`cors.allow_headers`",
  ],
};

function explainSuccess({ header }, preflight, { status }) {
  if (!preflight && (header === "quoted" || header === "authorization")) {
    const text =
      "No preflight this time: the browser still has the response to the last one for this URL.";
    return [text, "`cors.max_age`"];
  }
  if (status !== 200) {
    const text =
      `The page can read the ${status}, for errors carry CORS headers too; without them it would ` +
      "look like a broken network.";
    return [text, "no setting: it is always so"];
  }
  return SUCCESSES[header];
}
