// Requests to the service. The key lives in this module's memory only.

import { $, h } from "./dom.js";

const ROOT = new URL("..", import.meta.url);
let key = "";
export const setKey = (value) => { key = value; };
export const hasKey = () => key !== "";

/** An answer that is a problem (RFC 9457), or no answer; `message` is a sentence to show. */
export class ApiError extends Error {
  constructor(message, status = 0, requestId = "") {
    super(message);
    Object.assign(this, { status, requestId });
  }
}

export const isAbort = (error) => error?.name === "AbortError";

export function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "" && value !== false) url.searchParams.set(name, value);
  }
  return url;
}

/** Send a request; `files` is a PNG or a list of named files, `json` a body of JSON. Gives the response. */
export async function request(method, path, { query, files, json, signal, headers = {} } = {}) {
  const options = { method, signal, headers: { ...headers } };
  if (key) options.headers["X-API-Key"] = key;
  if (files instanceof Blob) {
    options.body = files;
    options.headers["Content-Type"] = "image/png";
  } else if (files) {
    options.body = new FormData();
    for (const file of files) options.body.append("file", file, file.name ?? "image.png");
  } else if (json) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(address(path, query), options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The service cannot be reached. Check that it runs, then try again.");
  }
  if (!response.ok) throw await problem(response);
  return response;
}

async function problem(response) {
  let body = {};
  try {
    body = await response.json();
  } catch { /* a proxy may answer with another kind of body */ }
  let text = body.detail ?? `The service answered ${response.status} ${response.statusText}.`;
  if (!/[.!?]$/.test(text)) text += ".";
  text = text[0].toUpperCase() + text.slice(1);
  const wait = response.headers.get("Retry-After");
  if (wait && (response.status === 503 || response.status === 429)) text += ` Try again in ${wait} s.`;
  if (response.status === 401) text += " Enter a key under “API key”.";
  return new ApiError(text, response.status, body.request_id ?? "");
}

export const getJson = async (path, options) => (await request("GET", path, options)).json();
export const postJson = async (path, options) => (await request("POST", path, options)).json();
export const getBlob = async (path, options) => (await request("GET", path, options)).blob();
export const postBlob = async (path, options) => (await request("POST", path, options)).blob();

/** Run a task that a new one cancels: `latest(async (signal) => ...)`. */
export class Latest {
  #controller = null;

  async run(task) {
    this.cancel();
    const controller = this.#controller = new AbortController();
    try {
      return await task(controller.signal);
    } finally {
      if (this.#controller === controller) this.#controller = null;
    }
  }

  cancel() {
    this.#controller?.abort();
    this.#controller = null;
  }
}

const PATIENCE = 300; // milliseconds until a bar with a button to cancel appears

/** Run a task with a bar that shows its progress: `busy("Scoring", latest, async (signal, show) => ...)`. */
export async function busy(label, latest, task) {
  const bar = $("busy");
  const progress = h("progress", { max: 1, "aria-label": label });
  const text = h("span", null, label);
  const cancel = h("button", { type: "button", className: "quiet", onclick: () => latest.cancel() }, "Cancel");
  const row = h("div", { className: "busy-row" }, text, progress, cancel);
  const timer = setTimeout(() => { bar.append(row); bar.hidden = false; }, PATIENCE);
  try {
    return await latest.run((signal) => task(signal, (share, words) => {
      progress.value = share;
      if (words) text.textContent = words;
    }));
  } finally {
    clearTimeout(timer);
    row.remove();
    bar.hidden = bar.childElementCount === 0;
  }
}

/** The lines of a stream of JSON objects, one in a line. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += value ?? "";
    const parts = rest.split("\n");
    rest = done ? "" : parts.pop();
    for (const part of parts) if (part.trim()) yield JSON.parse(part);
    if (done) return;
  }
}
