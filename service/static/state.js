// What the address says, and what is shared between views: the models, the chosen one, and the user's image.

import { getJson } from "./api.js";

const DEFAULTS = { view: "image" };

export const models = { list: [], current: null };

/** The user's image: a canvas of the model's size as the model gets it, or null. Lives in memory only. */
export const mine = { canvas: null, name: "image.png" };

export const read = (name) => new URLSearchParams(location.search).get(name) ?? DEFAULTS[name] ?? null;

/** Write parameters into the address; null removes one. `push` adds a step to the history. */
export function write(parameters, { push = false } = {}) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(parameters)) {
    if (value === null || value === undefined || value === DEFAULTS[name]) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  if (url.href !== location.href) history[push ? "pushState" : "replaceState"](null, "", url);
}

/** Link to a view that keeps the model and drops what belongs to other views. */
export function linkTo(view, parameters = {}) {
  const query = new URLSearchParams();
  if (view !== DEFAULTS.view) query.set("view", view);
  if (read("model")) query.set("model", read("model"));
  for (const [name, value] of Object.entries(parameters)) query.set(name, value);
  return `?${query}`;
}

/** Shape of the current model's images. */
export function shape() {
  const [channels, height, width] = models.current.architecture.image_shape;
  return { channels, height, width };
}

/** How the current model fits images of other sizes: `crop`, `pad` or `stretch`. */
export async function fit() {
  const card = await getJson(`models/${reference(models.current)}`);
  return card.preparation?.fit ?? "stretch";
}

/** The `model` parameter of requests: nothing for the default. */
export const modelQuery = () => (models.current.default ? undefined : reference(models.current));

export const reference = (model) => `${model.name}@${model.version}`;

export const layers = () => {
  const architecture = models.current.architecture;
  return architecture.model === "vae" ? { z1: architecture.z1_dim } : { z2: architecture.z2_dim, z1: architecture.z1_dim };
};
