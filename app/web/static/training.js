// Train: send a job, and keep the list of jobs fresh.

import { ask, askJson, explain, persist } from "./api.js";
import { offerCancel } from "./cancel.js";
import { refresh } from "./fragments.js";
import { data, make, notice, pause, t } from "./page.js";

const LOOK_MILLISECONDS = 2000; // between two looks at the list

const form = document.getElementById("order");
const answer = document.getElementById("answer");

let sent = ""; // the last order
let key = ""; // and its Idempotency-Key: sent again, it makes no second job

function showDefaults() {
  const recipes = data.recipes[form.elements.arch.value];
  const chosen = form.elements.recipe;
  for (const option of chosen.options) option.disabled = !(option.value in recipes);
  if (chosen.selectedOptions[0].disabled) chosen.value = data.default;
  form.elements.epochs.placeholder = recipes[chosen.value];
}

function readOrder() {
  const given = [...new FormData(form)].filter(([, value]) => value.trim());
  return Object.fromEntries(given.map(([name, value]) => [name, ["arch", "recipe"].includes(name) ? value : Number(value)]));
}

async function send() {
  if (!form.reportValidity()) return;
  const body = JSON.stringify(readOrder());
  if (body !== sent) [sent, key] = [body, crypto.getRandomValues(new Uint32Array(4)).join("-")];
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const job = await askJson("train", { method: "POST", headers, body });
    sent = "";
    answer.replaceChildren(make("a", { href: `watch?job=${job.id}` }, t("job_accepted")));
    await look();
  } catch (problem) {
    answer.replaceChildren(make("span", { class: "problem" }, problem.status === 429 ? t("full") : explain(problem)));
  } finally {
    button.disabled = false;
  }
}

const look = () => refresh(["jobs"]);

async function keepLooking() {
  for (;;) {
    await pause(LOOK_MILLISECONDS);
    if (!document.hidden) await persist(look).catch((problem) => notice(explain(problem)));
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
form.addEventListener("change", showDefaults);
offerCancel(document.querySelector(".result"), look);
showDefaults();
keepLooking();
