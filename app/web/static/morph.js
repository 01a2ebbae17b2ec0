// Morph: the frames between two digits come as one strip; a slider and an animation step through it.

import { ask, persist, read } from "./api.js";
import { check, listVersions } from "./fields.js";
import { find, make, makeSignals, nameArch, notice, readForm, t } from "./page.js";

const FRAMES = 33;
const [SIDE, PITCH] = [28, 30]; // pixels of a frame, and from one frame of the strip to the next
const FRAME_MILLISECONDS = 50;

const form = find("order");
const slider = find("position");
const canvas = find("canvas");

let strip = null; // the picture of all frames
let timer = 0;
let direction = 1;

const startAsking = makeSignals();

function showFrame() {
  const frame = Number(slider.value);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(strip, frame * PITCH, 0, SIDE, SIDE, 0, 0, SIDE, SIDE);
  slider.setAttribute("aria-valuetext", t("position", { percent: Math.round((100 * frame) / (FRAMES - 1)) }));
}

/** Seeds for the ends whose digit is chosen. */
async function chooseSeeds(signal) {
  for (const chosen of form.querySelectorAll("[data-end]")) {
    if (!chosen.value || chosen.dataset.done === chosen.value) continue;
    const query = new URLSearchParams({ arch: form.elements.arch.value, digit: chosen.value, n: 1 });
    if (form.elements.version.value) query.set("version", form.elements.version.value);
    const answer = await ask(`generate?${query}`, { headers: { Accept: "image/png" }, signal });
    form.elements[chosen.dataset.end].value = answer.headers.get("X-Seeds");
    chosen.dataset.done = chosen.value;
  }
}

async function morph() {
  const signal = startAsking();
  stop();
  if (!check(form)) return notice("morph", "");
  const done = await persist("morph", async () => {
    await chooseSeeds(signal);
    const query = new URLSearchParams(readForm(form));
    const [blob, headers] = await read("blob", `morph.png?${query}&frames=${FRAMES}`, { signal });
    query.set("version", headers.get("X-Version"));
    return { query, blob };
  }, signal);
  if (done) await show(done, signal);
}

async function show({ query, blob }, signal) {
  const fresh = make("img", { src: URL.createObjectURL(blob) });
  await fresh.decode();
  URL.revokeObjectURL(fresh.src);
  if (signal.aborted) return;
  strip = fresh;
  find("strip").src = `morph.png?${query}&frames=16&scale=2`;
  find("strip").hidden = canvas.hidden = false;
  const text = t("between", { ...Object.fromEntries(query), name: nameArch(query.get("arch")) });
  canvas.setAttribute("aria-label", text);
  find("caption").textContent = text;
  slider.max = FRAMES - 1;
  slider.value = 0;
  direction = 1;
  slider.disabled = find("play").disabled = find("save").hidden = false;
  find("save").href = `morph.webp?${query}&scale=8`;
  find("save").download = `${query.get("arch")}-v${query.get("version")}-${query.get("from")}-${query.get("to")}.webp`;
  history.replaceState(null, "", `morph?${query}`);
  showFrame();
}

function step() {
  const next = Number(slider.value) + direction;
  if (next < 0 || next >= FRAMES) direction = -direction;
  slider.value = Number(slider.value) + direction;
  showFrame();
}

function stop() {
  clearInterval(timer);
  timer = 0;
  find("play").textContent = t("play");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  for (const chosen of form.querySelectorAll("[data-end]")) chosen.dataset.done = ""; // another one of the digit
  morph();
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "arch") listVersions(form);
  if (["arch", "version"].includes(target.name)) {
    for (const chosen of form.querySelectorAll("[data-end]")) chosen.dataset.done = "";
  } else if (["from", "to"].includes(target.name)) {
    const chosen = form.querySelector(`[data-end=${target.name}]`);
    if (chosen) chosen.value = chosen.dataset.done = ""; // by seed now
  }
  const typed = form.elements[target.dataset.end];
  if (typed && !typed.validity.valid) typed.value = 0; // the digit brings its own seed
  document.querySelectorAll(".result .problem").forEach((one) => one.remove());
  morph();
});
find("swap").addEventListener("click", () => {
  const { from, to } = form.elements;
  const [first, second] = form.querySelectorAll("[data-end]");
  [from.value, to.value] = [to.value, from.value];
  [first.value, second.value] = [second.value, first.value];
  [first.dataset.done, second.dataset.done] = [second.dataset.done ?? "", first.dataset.done ?? ""];
  morph();
});
slider.addEventListener("input", () => {
  stop();
  showFrame();
});
find("play").addEventListener("click", () => {
  if (timer) return stop();
  timer = setInterval(step, FRAME_MILLISECONDS);
  find("play").textContent = t("pause");
});
for (const hidden of form.querySelectorAll("label[hidden], #swap")) hidden.hidden = false;
morph();
