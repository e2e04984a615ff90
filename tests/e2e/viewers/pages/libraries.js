// What dicomweb-client and dwv make of an archive.
import { api } from "dicomweb-client";
import { App, AppOptions, ViewConfig } from "dwv";

const numbers = (buffer) => Array.from(new Uint8Array(buffer));

// Calls a method of dicomweb-client.
window.dicomweb = async (root, method, options) => {
  const client = new api.DICOMwebClient({ url: root });
  const datasets = options.datasets?.map((values) => new Uint8Array(values).buffer);
  try {
    const found = await client[method](datasets ? { ...options, datasets } : options);
    const isBinary = Array.isArray(found) && found[0] instanceof ArrayBuffer;
    return { value: isBinary ? found.map(numbers) : found };
  } catch (error) {
    return { status: error.status };
  }
};

// Shows an instance with dwv, and returns its grey values.
window.show = async (url, requestHeaders, side) => {
  const element = document.getElementById("dwv");
  const app = new App();
  app.init(new AppOptions({ "*": [new ViewConfig("dwv")] }));
  const failed = new Promise((_, reject) => {
    app.addEventListener("loaderror", ({ error }) => reject(error));
  });
  app.loadURLs([url], { requestHeaders });
  const picture = () => Array.from(element.querySelectorAll("canvas"), (c) => greys(c, side)).find(Boolean);
  return Promise.race([until(picture), failed]);
};
