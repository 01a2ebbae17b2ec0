// Train: send a job, and keep the list of jobs fresh.

import { askJson, persist } from "./api.js";
import { offerCancel } from "./cancel.js";
import { refresh } from "./fragments.js";
import { check } from "./fields.js";
import { data, find, make, makeSignals, notice, pause, readForm, t } from "./page.js";

const LOOK_MILLISECONDS = 2000; // between two looks at the list

const form = find("order");
const answer = find("answer");
const button = form.querySelector("button");

let sent = ""; // the last order
let key = ""; // and its Idempotency-Key: sent again, it makes no second job

const startSending = makeSignals();

function showDefaults() {
  const recipes = data.recipes[form.elements.arch.value];
  const chosen = form.elements.recipe;
  for (const option of chosen.options) option.disabled = !(option.value in recipes);
  if (chosen.selectedOptions[0].disabled) chosen.value = data.default;
  form.elements.epochs.placeholder = recipes[chosen.value];
}

function readOrder() {
  const given = readForm(form);
  return Object.fromEntries(given.map(([name, value]) => [name, ["arch", "recipe"].includes(name) ? value : Number(value)]));
}

function stopSending() {
  startSending(); // which aborts the one before
  button.removeAttribute("aria-disabled");
  notice("train", "");
}

async function send() {
  if (button.hasAttribute("aria-disabled") || !check(form)) return;
  const body = JSON.stringify(readOrder());
  if (body !== sent) [sent, key] = [body, crypto.getRandomValues(new Uint32Array(4)).join("-")];
  const signal = startSending();
  button.setAttribute("aria-disabled", "true");
  answer.replaceChildren();
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  // What is sent is sent: its answer is shown also if the form is changed meanwhile. Only the next tries are stopped.
  const order = () => askJson("train", { method: "POST", headers, body }).then(({ id }) => sayAccepted(id, body), explainFull);
  await persist("train", order, signal);
  if (signal.aborted) return;
  button.removeAttribute("aria-disabled");
  await persist("jobs", look);
}

function sayAccepted(id, body) {
  if (sent === body) sent = ""; // the same form, sent again, makes another job
  answer.replaceChildren(make("a", { href: `watch?job=${id}` }, t("job_accepted")));
}

/** A full queue does not pass soon: that is said once, and nothing is tried again. */
function explainFull(problem) {
  if (problem.status !== 429) throw problem;
  answer.replaceChildren(make("span", { class: "problem" }, t("full")));
}

const states = new Map(); // job → what is said of its state

/** Look at the jobs anew, and tell those who listen to the page whose state is another one now. */
async function look() {
  await refresh(["jobs"]);
  const news = [];
  for (const row of document.querySelectorAll("#jobs [id^=job-]")) {
    const text = `${row.querySelector("a").textContent}: ${row.querySelector(".state").textContent}`;
    if (states.has(row.id) && states.get(row.id) !== text) news.push(text);
    states.set(row.id, text);
  }
  if (news.length) find("news").textContent = news.join(". ");
}

async function keepLooking() {
  for (;;) {
    await pause(LOOK_MILLISECONDS);
    if (!document.hidden) await persist("jobs", look);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
form.addEventListener("input", () => {
  stopSending();
  showDefaults();
});
offerCancel(document.querySelector(".result"), look);
showDefaults();
keepLooking();
