// What a DICOMweb viewer does with an archive, and what a script gets to see of the answers.

async function ask(url, options) {
  try {
    const response = await fetch(url, options);
    return {
      status: response.status,
      headers: Object.fromEntries(response.headers),
      body: Array.from(new Uint8Array(await response.arrayBuffer())),
    };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}

function store(url, instance) {
  const boundary = crypto.randomUUID();
  return ask(url, {
    method: "POST",
    headers: { "Content-Type": `multipart/related; type="application/dicom"; boundary=${boundary}` },
    body: new Blob([
      `--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`,
      new Uint8Array(instance),
      `\r\n--${boundary}--\r\n`,
    ]),
  });
}

// An image of another origin taints the canvas, unless CORS lets its pixels be read.
async function embed(url) {
  const image = new Image();
  image.crossOrigin = "anonymous";
  image.src = url;
  try {
    await image.decode();
  } catch (error) {
    return { error: error.name };
  }
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return {
    width: image.naturalWidth,
    height: image.naturalHeight,
    colours: new Set(new Uint32Array(pixels.buffer)).size,
  };
}

// As a page embeds an image that it does not want to read.
function embedWithoutCors(url) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => resolve({ error: "error" });
    image.src = url;
  });
}

async function render(url, options) {
  const response = await fetch(url, options);
  return embed(URL.createObjectURL(await response.blob()));
}

// Asks for the same thing over and over: in one lane without a break, so that its connection stays in
// use, in the others together, so that each has its own, which may be closed in the break.
const asking = { stopped: false, loaded: 0, failures: [] };

function askOn(url, options, lanes, pause) {
  async function lane(index) {
    while (!asking.stopped) {
      const answer = await ask(url, options);
      if (answer.status === 200 && answer.body.length > 0) {
        asking.loaded += 1;
      } else {
        asking.failures.push(answer.error ?? answer.status);
      }
      const wait = index && pause - (performance.now() % pause);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
  asking.lanes = Promise.all(Array.from({ length: lanes }, (_, index) => lane(index)));
}

async function stopAsking() {
  asking.stopped = true;
  await asking.lanes;
  return asking.failures;
}

// Asks for `count` things at once, numbered from 1; tells the SHA-256 of each body, or what went wrong,
// and by which protocols they came.
async function askForAll(url, count, options) {
  performance.setResourceTimingBufferSize(2 * count + 100);
  const one = async (number) => {
    try {
      const response = await fetch(url + number, options);
      if (!response.ok) return `${response.status}`;
      const hash = await crypto.subtle.digest("SHA-256", await response.arrayBuffer());
      return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
    } catch (error) {
      return error.name;
    }
  };
  const bodies = await Promise.all(Array.from({ length: count }, (_, index) => one(index + 1)));
  const noted = () => performance.getEntriesByType("resource").filter(({ name }) => name.startsWith(url));
  while (noted().length < count) await new Promise((resolve) => setTimeout(resolve, 10));
  return { bodies, protocols: [...new Set(noted().map(({ nextHopProtocol }) => nextHopProtocol))] };
}

// As cornerstone3D's range loader: the first part tells how much there is.
async function inRanges(url, size) {
  const part = async (range) => {
    const response = await fetch(url, { headers: { Range: `bytes=${range}` } });
    const total = Number(response.headers.get("Content-Range").split("/")[1]);
    return { total, bytes: new Uint8Array(await response.arrayBuffer()) };
  };
  const parts = [await part(`0-${size - 1}`)];
  if (parts[0].total > size) {
    parts.push(await part(`${size}-`));
  }
  return { parts: parts.length, body: parts.flatMap(({ bytes }) => Array.from(bytes)) };
}

function embedObject(url) {
  return new Promise((resolve) => {
    const element = document.createElement("object");
    element.type = "image/jpeg";
    element.onload = element.onerror = (event) => resolve(event.type);
    element.data = url;
    document.body.append(element);
  });
}

let running;

function begin(url) {
  const controller = new AbortController();
  const response = fetch(url, { signal: controller.signal });
  running = { controller, response, reader: response.then(({ body }) => body.getReader()) };
  running.reader.catch(() => {});
}

async function firstChunk() {
  return (await (await running.reader).read()).value.length;
}

async function abort() {
  running.controller.abort();
  try {
    await (await running.reader).read();
  } catch (error) {
    return error.name;
  }
  return "it went on";
}
