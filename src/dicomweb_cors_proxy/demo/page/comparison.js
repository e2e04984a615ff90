// The same three requests, straight to the archive and through the proxy.

import {
  JSON_TYPE, QUOTED, ROOTS, UNQUOTED, firstPart, framePath, json, seriesPath, value,
} from "./dicomweb.js";
import { byId, element, milliseconds, prose } from "./dom.js";
import { asked, isPreflight, readable, transcript, watch } from "./exchanges.js";

/** The responses through the proxy can't be read either. */
export class ProxyRefusal extends Error {}

/** Finds the series as a viewer does; returns the metadata of its images in their order. */
export async function findImages() {
  const [series] = json(await compare("Search", "series?Modality=CT", JSON_TYPE, true));
  const path = `${seriesPath(series)}/metadata`;
  const images = json(await compare("Metadata", path, JSON_TYPE, false));
  return images.sort((one, other) => value(one, "number") - value(other, "number"));
}

/** Returns the pixels of one image. */
export async function loadImage(image) {
  return firstPart(await compare("Image", framePath(image), QUOTED, false));
}

/** Asks both servers, writes down what came of it, and returns the response through the proxy. */
async function compare(name, path, accept, open) {
  const article = element(
    "article",
    { class: "comparison" },
    element(
      "header",
      {},
      element("h3", {}, name),
      element("code", {}, `GET ${readable(path)}`),
      element("code", {}, `Accept: ${accept}`),
    ),
  );
  byId("comparisons").append(article);
  const request = (root) => ask(`${root}/${path}`, { headers: { Accept: accept } });
  const [direct, atArchive] = await watch(path, () => request(ROOTS.archive));
  const [proxied, atProxy] = await watch(path, () => request(ROOTS.proxy));
  byId("direct-error").textContent = direct.error;
  byId("direct-requests").append(requestRow(name, path, direct));
  byId("proxied-requests").append(requestRow(name, path, proxied));
  article.append(side(direct, atArchive, open), side(proxied, atProxy, open));
  if (proxied.error) throw new ProxyRefusal();
  return proxied;
}

function requestRow(name, path, { status, error, milliseconds: taken }) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    element("td", {}, element("code", {}, readable(path))),
    element(
      "td",
      {},
      error
        ? element("span", { class: "status bad" }, "refused")
        : element("span", { class: "status good" }, `${status}`),
    ),
    element("td", { class: "time" }, milliseconds(taken)),
  );
}

const VERDICTS = {
  refused:
    "The archive did answer. No header lets this page read it, so the browser withholds it.",
  read: "The response names this page's origin, so the script may read it.",
  "preflight refused":
    "Quotes in `Accept` make the browser ask first. The archive grants nothing, so the `GET` is " +
    "never sent.",
  "preflight read": "The proxy grants the preflight itself; the archive sees only the `GET`.",
};

function side({ error }, exchanges, open) {
  const preflight = exchanges.some(isPreflight) ? "preflight " : "";
  const text = VERDICTS[preflight + (error ? "refused" : "read")];
  const verdict = element("p", { class: error ? "verdict bad" : "verdict good" }, ...prose(text));
  const transcripts = exchanges.map((exchange) =>
    transcript(exchange, isPreflight(exchange) || (open && !exchange.via)),
  );
  return element("div", { class: "side" }, ...transcripts, verdict);
}

/** Loads images with the quotes left out of Accept; `onLoad(image, pixels)` gets each. */
export async function loadImages(images, onLoad) {
  let bytes = 0;
  const load = async (image) => {
    const options = { headers: { Accept: UNQUOTED } };
    const pixels = firstPart(await ask(`${ROOTS.proxy}/${framePath(image)}`, options));
    bytes += pixels.byteLength;
    onLoad(image, pixels);
  };
  const [taken, exchanges] = await watch("frames/1", async () => {
    const begin = performance.now();
    await Promise.all(images.map(load));
    return milliseconds(performance.now() - begin);
  });
  const size = (bytes / 2 ** 20).toFixed(1);
  const preflights = exchanges.filter(isPreflight).length || "no";
  const accept = asked(exchanges.find(({ via }) => via), "accept");
  byId("others").replaceChildren(
    ...prose(
      `The other ${images.length} images, ${size} MiB, came in ${taken} with ${preflights} ` +
        "preflights: the page left the quotes out of `Accept`, so the browser had nothing to " +
        `ask. The proxy put them back for the archive, which is strict: \`${accept}\`.`,
    ),
  );
}
