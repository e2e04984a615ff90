// Not a module: the sandboxed frame loads it too, and modules would need CORS themselves.
"use strict";

/** Fetches, and tells what a script learns: a response, or that there is none. */
async function ask(url, options) {
  const begin = performance.now();
  const taken = () => performance.now() - begin;
  try {
    const response = await fetch(url, options);
    const body = await response.arrayBuffer();
    const type = response.headers.get("Content-Type");
    return { status: response.status, type, body, milliseconds: taken() };
  } catch (error) {
    return { error: String(error), milliseconds: taken() };
  }
}
