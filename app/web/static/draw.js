// Draw: the picture follows the form; each digit of it can be opened.

import { askJson, persist, read } from "./api.js";
import { showDigit } from "./digit.js";
import { check, listVersions } from "./fields.js";
import { addCopyButtons, data, find, make, makeSignals, nameArch, notice, readForm, t } from "./page.js";

const GUTTER = 2; // pixels between the images of a grid
const SIDE = 28; // pixels of an image
const CHANGE_MILLISECONDS = 250; // after the last key, before the form is read
const SLOW_MILLISECONDS = 300; // until it is said that something is drawn

const form = find("order");
const picture = find("picture");

const lastSeed = form.elements.seed.max; // of digits by value, fewer seeds are known

let here = location.search; // of the picture that is shown
let shown = null; // the query of the picture, with its version and seed
let chosen = null; // {query, images}: what is known of its images, if they were chosen by value; asked for once
let timer = 0;
let count = form.elements.text.value ? data.n : ""; // what n was before a number was written

const startDrawing = makeSignals();
const startOpening = makeSignals();

const isByValue = (query) => ["digit", "text"].some((name) => query.has(name));

/** A seed that has a place in the index of digits, so that it serves any digit, too. */
const chooseSeed = () => (form.elements.seed.value = Math.floor(Math.random() * data.seeds));

/** Draw what the form asks for; gives whether it is shown. ``isNew``: the picture before stays in the browser's history. */
async function draw(isNew = false) {
  clearTimeout(timer);
  const signal = startDrawing();
  find("sheet").removeAttribute("aria-busy");
  const query = new URLSearchParams(readForm(form));
  form.elements.seed.max = isByValue(query) ? data.seeds - 1 : lastSeed;
  if (!check(form)) {
    notice("draw", "");
    find("caption").textContent = picture.alt;
    return false;
  }
  if (!query.has("seed")) query.set("seed", chooseSeed());
  find("sheet").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => (find("caption").textContent = t("drawing")), SLOW_MILLISECONDS);
  const options = { headers: { Accept: "image/png" }, signal };
  const answer = await persist("draw", () => read("blob", `generate?${query}`, options), signal);
  if (answer) {
    const [blob, headers] = answer;
    query.set("version", headers.get("X-Version"));
    await show(query, URL.createObjectURL(blob), signal, isNew);
  }
  clearTimeout(slow);
  if (signal.aborted) return false;
  find("caption").textContent = picture.alt; // which says "drawing" no more
  find("sheet").removeAttribute("aria-busy");
  return Boolean(answer);
}

/** Put a picture in place of the one before, with everything that is said of it. */
async function show(query, source, signal, isNew) {
  const loaded = make("img", { src: source });
  await loaded.decode();
  const before = shown;
  if (signal.aborted) {
    URL.revokeObjectURL(source);
    return;
  }
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.width = loaded.naturalWidth;
  picture.height = loaded.naturalHeight;
  picture.src = source;
  document.querySelectorAll(".result .problem").forEach((one) => one.remove());
  describe(query, loaded);
  if (isNew && before) history.replaceState(null, "", `./?${before}`); // "/" alone would draw others
  history[isNew ? "pushState" : "replaceState"](null, "", `./?${new URLSearchParams(readForm(form))}`);
  here = location.search;
}

/** Say what is shown. ``loaded`` has the size of the picture. */
function describe(query, loaded) {
  shown = query;
  const kind = query.has("text") ? "described_text" : query.has("digit") ? "described_digit" : "described";
  const text = t(kind, { ...Object.fromEntries(query), name: nameArch(query.get("arch")) });
  picture.alt = text;
  find("caption").textContent = text;
  find("sheet").hidden = find("code").hidden = false;
  find("link").href = `./?${query}`;
  find("save").href = picture.src;
  find("save").download = `${query.get("arch")}-v${query.get("version")}-seed${query.get("seed")}.png`;
  find("replay").href = `watch?${new URLSearchParams({ arch: query.get("arch"), version: query.get("version") })}`;
  const address = new URL(`generate?${query}`, document.baseURI).href;
  for (const [kind, template] of Object.entries(data.code)) {
    const place = find(`code-${kind}`);
    if (place) place.textContent = template.replace("{address}", address);
  }
  coverWithButtons(loaded.naturalWidth, loaded.naturalHeight);
}

/** A button over each image of the grid. One of them is in the tab order; arrow keys reach the others. */
function coverWithButtons(width, height) {
  const n = Number(shown.get("n"));
  const scale = Number(shown.get("scale") ?? 1);
  const isLine = shown.has("text");
  const columns = isLine ? 1 : Math.min(Math.ceil(Math.sqrt(n)), n);
  const [wide, high] = [isLine ? width : SIDE * scale, SIDE * scale];
  const cells = make("div", { class: "cells" });
  for (let i = 0; i < n; i++) {
    const cell = make("button", { type: "button", tabindex: i ? -1 : 0, "aria-label": t("cell", { number: i + 1 }), "data-number": i });
    cell.style.left = `${((i % columns) * (wide + GUTTER) * 100) / width}%`;
    cell.style.top = `${(Math.floor(i / columns) * (high + GUTTER) * 100) / height}%`;
    cell.style.width = `${(wide * 100) / width}%`;
    cell.style.height = `${(high * 100) / height}%`;
    cells.append(cell);
  }
  cells.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = step && cells.children[Number(event.target.dataset.number) + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  cells.addEventListener("click", (event) => {
    const { number } = event.target.dataset;
    const { left, width } = event.target.getBoundingClientRect();
    if (number) openDigit(Number(number), event.detail ? (event.clientX - left) / width : 0); // 0: by a key
  });
  find("frame").querySelector(".cells")?.remove();
  find("frame").append(cells);
}

/** What is known of one image of a picture: its seeds, and what they are. */
async function askForImage(query, number, signal) {
  const asked = new URLSearchParams(query);
  asked.set("scale", query.has("text") ? 4 : 1);
  if (isByValue(query)) {
    if (chosen?.query !== query) chosen = { query, images: (await askJson(`generate?${asked}`, { signal })).images };
    return chosen.images[number];
  }
  asked.set("seed", Number(query.get("seed")) + number);
  asked.set("n", 1);
  return (await askJson(`generate?${asked}`, { signal })).images[0];
}

/** Open a digit. ``share`` is how far from the left end of its image it was clicked, 0…1. */
async function openDigit(number, share) {
  const signal = startOpening();
  const query = shown;
  const image = await persist("digit", () => askForImage(query, number, signal), signal);
  if (image) showDigit(query, number, image, share);
}

/** A number that is written is one line, unless someone wants more; without it, there are as many digits as before. */
function switchToText(isText) {
  if (isText === (count !== "")) return;
  const { n } = form.elements;
  [n.value, count] = isText ? [1, n.value] : [count, ""];
}

/** Read a number as people write it, also with the wide digits of Japanese. */
function readNumber(field) {
  const digits = field.value.normalize("NFKC").replace(new RegExp(data.between_digits, "g"), "");
  if (digits !== field.value) field.value = digits;
  switchToText(digits !== "");
  if (digits) form.querySelector('[name=digit][value=""]').checked = true;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const isNew = event.submitter?.name === "again";
  if (isNew) chooseSeed();
  if (await draw(isNew)) find("frame").scrollIntoView({ block: "nearest" });
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "arch") listVersions(form);
  if (target.name === "digit") {
    form.elements.text.value = "";
    switchToText(false);
  }
  if (target.matches("select, [type=radio]")) draw();
});
form.addEventListener("input", (event) => {
  const { target } = event;
  if (!target.matches("input:not([type=radio])") || event.isComposing) return;
  if (target.name === "text") readNumber(target);
  clearTimeout(timer);
  if (target.value || target.name === "text") timer = setTimeout(draw, CHANGE_MILLISECONDS);
  else if (target.validity.valid) check(form);
});
form.addEventListener("compositionend", ({ target }) => target.dispatchEvent(new Event("input", { bubbles: true })));
addEventListener("popstate", () => {
  if (location.search !== here) location.reload();
});

addCopyButtons(".code code");
const asked = picture.getAttribute("src");
if (asked) {
  const query = new URLSearchParams(asked.split("?")[1]);
  picture.decode().then(() => describe(query, picture), () => draw());
}
