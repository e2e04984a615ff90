/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element: element("p", { class: "note" }, "text", child, …). */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Text in which `…` is code. */
export function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

export const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;
