import { ProxyRefusal, findImages, loadImage, loadImages } from "./comparison.js";
import { PORTS, framePath, value } from "./dicomweb.js";
import { byId, element } from "./dom.js";
import { openTrials } from "./trials.js";
import { Viewport } from "./viewport.js";

function fillIn() {
  for (const [server, port] of Object.entries(PORTS)) {
    for (const node of document.querySelectorAll(`[data-port="${server}"]`)) {
      node.textContent = `:${port}`;
    }
  }
  for (const node of document.querySelectorAll("[data-origin]")) node.textContent = location.origin;
}

function describe(image) {
  const spacing = value(image, "spacing");
  const rows = {
    Patient: value(image, "patientName").replace("^", ", "),
    Study: value(image, "description"),
    Date: value(image, "studyDate").replace(/(....)(..)(..)/, "$1-$2-$3"),
    Modality: value(image, "modality"),
    Matrix: `${value(image, "columns")} × ${value(image, "rows")}`,
    Depth: `${value(image, "bitsStored")} bits`,
    Voxel: `${spacing} × ${spacing} × ${value(image, "thickness")} mm`,
  };
  byId("metadata").replaceChildren(
    ...Object.entries(rows).map(([name, text]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, text)),
    ),
  );
}

async function main() {
  fillIn();
  const images = await findImages();
  const middle = images.length / 2;
  const viewport = new Viewport(byId("canvas"), byId("slice"), (index, { center, width }) => {
    byId("slice-text").textContent = `${index + 1} / ${images.length}`;
    byId("window-text").textContent = `W ${Math.round(width)} L ${Math.round(center)}`;
  });
  describe(images[middle]);
  viewport.open({
    rows: value(images[0], "rows"),
    columns: value(images[0], "columns"),
    intercept: value(images[0], "intercept"),
    count: images.length,
    index: middle,
    window: { center: value(images[0], "windowCenter"), width: value(images[0], "windowWidth") },
  });
  viewport.add(middle, await loadImage(images[middle]));
  for (const button of document.querySelectorAll("button[data-center]")) {
    const { center, width } = button.dataset;
    button.disabled = false;
    button.addEventListener("click", () =>
      viewport.setWindow({ center: Number(center), width: Number(width) }),
    );
  }
  const others = images.filter((image) => image !== images[middle]);
  await loadImages(others, (image, pixels) => viewport.add(images.indexOf(image), pixels));
  await openTrials(framePath(images[middle]));
  document.body.dataset.ready = "";
}

main().catch((error) => {
  if (!(error instanceof ProxyRefusal)) throw error;
  byId("trouble").hidden = false;
});
