// The frame of the studio: models, views, the key, and the address.

import { getJson, setKey } from "./api.js";
import { closeButton } from "./code.js";
import { $, h } from "./dom.js";
import { errorBox } from "./figures.js";
import { filesView } from "./files.js";
import { imageView } from "./image.js";
import { interpolateView } from "./interpolate.js";
import { mapView } from "./map.js";
import { prototypesView } from "./prototypes.js";
import { linkTo, mine, models, read, reference, write } from "./state.js";

const VIEWS = {
  image: ["Image", imageView], prototypes: ["Prototypes", prototypesView], map: ["Map", mapView],
  interpolate: ["Interpolate", interpolateView], files: ["Files", filesView],
};
let leave = () => {};

function show() {
  leave();
  const name = read("view") in VIEWS ? read("view") : "image";
  const [title, view] = VIEWS[name];
  document.title = `${title} · Studio`;
  const tabs = Object.entries(VIEWS).map(([key, [text]]) => h("a", {
    href: linkTo(key), "aria-current": key === name ? "page" : null,
  }, text));
  const hadFocus = $("tabs").contains(document.activeElement);
  $("tabs").replaceChildren(...tabs);
  const current = tabs[Object.keys(VIEWS).indexOf(name)];
  if (hadFocus) current.focus();
  current.scrollIntoView({ inline: "center", block: "nearest" });
  $("view").className = `view-${name}`;
  leave = view($("view")) ?? (() => {});
}

/** Follow links to other views without loading the page again. */
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='?']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", link.getAttribute("href"));
  show();
  scrollTo(0, 0);
});
addEventListener("popstate", () => {
  if (models.current) {
    choose(read("model"));
    show();
  }
});

function choose(wanted) {
  const known = models.list.find((model) => reference(model) === wanted || model.name === wanted);
  const next = known ?? models.list.find((model) => model.default) ?? models.list[0];
  if (models.current && reference(models.current) !== reference(next)) mine.canvas = null;
  models.current = next;
  $("model").value = reference(next);
}

async function start() {
  $("view").replaceChildren(h("p", { className: "empty" }, "Loading the models…"));
  try {
    const answer = await getJson("models");
    models.list = answer.models.filter((model) => model.status === "ready");
    if (!models.list.length) {
      throw new Error(answer.loading ? "The models are still loading." : "This service has no model that is ready.");
    }
    const select = $("model");
    const names = models.list.map((model) => model.name);
    select.replaceChildren(...models.list.map((model) => h("option", { value: reference(model) },
      names.indexOf(model.name) === names.lastIndexOf(model.name) ? model.name : reference(model))));
    select.disabled = false;
    choose(read("model"));
    show();
  } catch (error) {
    $("view").replaceChildren(errorBox(error, start));
    if (error.status === 401) askForKey();
  }
}

$("model").addEventListener("change", () => {
  const select = $("model");
  const model = models.list.find((item) => reference(item) === select.value);
  write({ model: model.default ? null : select.value, k: null, from: null, to: null }, { push: true });
  choose(select.value);
  show();
});

function askForKey() {
  const dialog = $("dialog");
  const field = h("input", { type: "password", autocomplete: "off", "aria-label": "API key", spellcheck: false });
  const use = () => { setKey(field.value.trim()); dialog.close(); start(); };
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") use(); });
  dialog.replaceChildren(
    h("div", { className: "dialog-head" }, h("h2", { id: "dialog-title" }, "API key"), closeButton(dialog)),
    h("p", { className: "note" }, "If the service asks for a key, enter it here. It stays in the memory of this page, and is gone when you close or reload it."),
    h("div", { className: "row" }, field, h("button", { type: "button", className: "primary", onclick: use }, "Use key")));
  dialog.showModal();
  field.focus();
}
$("key-button").addEventListener("click", askForKey);

start();
