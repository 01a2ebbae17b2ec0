// The blind test: which of two digits is real? It keeps score per generator.

import { persist, read } from "./api.js";
import { data, find, make, makeSignals, nameArch, t } from "./page.js";

const KEPT = "digits-blind-test"; // in the browser's storage
const REAL = 10_000; // test images
const SEEDS = 2 ** 31;
const SCALE = 6;

const sides = [find("left"), find("right")];
const recipe = find("test-recipe");

let pair = null; // {arch, recipe, real: 0 or 1}; null while there is none to choose from
const startAsking = makeSignals();
let scores = {}; // recipe → architecture → {shown, fooled}

function readScores() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? scores;
  } catch {
    return scores; // no storage, or not ours
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(scores));
  } catch {
    // a private window: the score lasts as long as the page
  }
}

const draw = (below) => Math.floor(Math.random() * below);

/** The generators that have a version of the chosen recipe. */
const listArchs = () => Object.keys(data.versions).filter((arch) => recipe.value in data.versions[arch]);

async function showPair() {
  const signal = startAsking();
  pair = null;
  find("next").hidden = true;
  find("verdict").textContent = "";
  const chosen = recipe.value;
  const archs = listArchs();
  const arch = archs[draw(archs.length)];
  const addresses = [
    `generate?arch=${arch}&version=${data.versions[arch][chosen]}&n=1&seed=${draw(SEEDS)}&scale=${SCALE}`,
    `real.png?n=1&seed=${draw(REAL)}&scale=${SCALE}`,
  ];
  const options = { headers: { Accept: "image/png" }, signal };
  const answers = await persist("pair", () => Promise.all(addresses.map((address) => read("blob", address, options))), signal);
  if (signal.aborted) return;
  find("next").hidden = Boolean(answers); // after an error: try another pair
  if (!answers) return;
  const [fake, real] = answers.map(([blob]) => URL.createObjectURL(blob)); // neither address says which one is real
  const place = draw(2);
  sides.forEach((button, i) => {
    for (const image of button.children) URL.revokeObjectURL(image.src);
    button.replaceChildren(make("img", { class: "pixels", src: i === place ? real : fake, alt: t(i ? "right" : "left"), width: 168, height: 168 }));
    button.className = "";
    button.removeAttribute("aria-disabled");
    button.setAttribute("aria-label", t(i ? "choose_right" : "choose_left"));
  });
  pair = { arch, recipe: chosen, real: place };
}

function choose(side) {
  if (!pair) return;
  scores = readScores(); // another tab may have changed them
  const isFooled = side !== pair.real;
  const of = ((scores[pair.recipe] ??= {})[pair.arch] ??= { shown: 0, fooled: 0 });
  of.shown += 1;
  of.fooled += isFooled;
  keep();
  sides.forEach((button, i) => {
    button.className = i === pair.real ? "real" : "fake";
    button.setAttribute("aria-disabled", "true");
  });
  const name = nameArch(pair.arch);
  find("verdict").textContent = isFooled ? t("wrong_answer", { name, side: t(pair.real ? "right" : "left") }) : t("right_answer", { name });
  pair = null;
  find("next").hidden = false;
  find("next").focus();
  showScore();
}

function showScore() {
  const of = scores[recipe.value] ?? {};
  find("score").replaceChildren(...listArchs().map((arch) => {
    const { shown, fooled } = of[arch] ?? { shown: 0, fooled: 0 };
    return make("tr", {}, make("th", { scope: "row" }, nameArch(arch)), make("td", {}, shown ? t("score", { fooled, shown }) : "–"));
  }));
}

sides.forEach((button, i) => button.addEventListener("click", () => choose(i)));
document.addEventListener("keydown", (event) => {
  const side = { ArrowLeft: 0, ArrowRight: 1 }[event.key];
  const isPlain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
  if (side === undefined || !isPlain || !pair || event.target.matches("select") || !isInView(find("test"))) return;
  event.preventDefault();
  choose(side);
});
find("next").textContent = t("next");
find("next").addEventListener("click", () => {
  sides[0].focus();
  showPair();
});
find("reset").addEventListener("click", () => {
  scores = readScores();
  delete scores[recipe.value];
  keep();
  showScore();
});
recipe.addEventListener("change", () => {
  showScore();
  showPair();
});

function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return top < innerHeight && bottom > 0;
}

scores = readScores();
if (recipe.value) {
  find("test").hidden = false;
  showScore();
  showPair();
}
