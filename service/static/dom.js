// Elements without innerHTML: text that comes from data is always a text node.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element && !(element instanceof SVGElement) && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A new HTML element: h("button", {type: "button", onclick}, "Text"). */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** A new SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const $ = (id) => document.getElementById(id);

/** Say something to screen readers. */
export function announce(text) {
  $("live").textContent = text;
}

let numbers = 0;
export const uniqueId = (prefix) => `${prefix}-${++numbers}`;

/** A slider with its label and its value. */
export function slider(label, { min, max, step = 1, value, format = String, oninput }) {
  const id = uniqueId("slider");
  const output = h("output", { htmlFor: id }, format(value));
  const input = h("input", {
    id, type: "range", min, max, step, value: String(value),
    oninput: () => {
      output.textContent = format(Number(input.value));
      oninput?.(Number(input.value));
    },
  });
  const element = h("div", { className: "slider" }, h("label", { htmlFor: id }, label), input, output);
  return {
    element, input,
    get value() { return Number(input.value); },
    set value(next) { input.value = String(next); output.textContent = format(Number(input.value)); },
  };
}

/** Buttons of which one is pressed. */
export function segments(label, options, value, onchange) {
  const buttons = options.map(([key, text]) => h("button", {
    type: "button", "aria-pressed": String(key === value), onclick: () => choose(key, true),
  }, text));
  function choose(key, tell) {
    options.forEach(([other], index) => buttons[index].setAttribute("aria-pressed", String(other === key)));
    element.value = key;
    if (tell) onchange?.(key);
  }
  const element = h("div", { className: "segments", role: "group", "aria-label": label }, buttons);
  element.value = value;
  element.choose = (key) => choose(key, false);
  return element;
}

/** A number field with its label. */
export function numberField(label, { min = 0, max, step = 1, value, onchange }) {
  const input = h("input", { type: "number", min, max, step, value: String(value), onchange: () => onchange?.(field.value) });
  const field = {
    element: h("label", { className: "field" }, h("span", null, label), input), input,
    get value() {
      const number = Number(input.value);
      return Math.min(max ?? Infinity, Math.max(min, Number.isFinite(number) ? number : min));
    },
    set value(next) { input.value = String(next); },
  };
  return field;
}

/** Offer bytes as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
