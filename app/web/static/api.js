// Questions to the API, and what to say when it does not answer as hoped.

import { notice, pause, t } from "./page.js";

const AGAIN_SECONDS = 1; // between two tries while the service is away
const MOST_SECONDS = 10; // the same if the service has much to do: its own guess is for the worst case

/** An answer that is no success. Status 0: there was no answer. */
export class Problem extends Error {
  constructor(status, detail = "", seconds = 0) {
    super(detail);
    this.status = status;
    this.detail = detail;
    this.seconds = Math.min(seconds || AGAIN_SECONDS, MOST_SECONDS); // until another try is worth it
  }

  /** Whether the same question may succeed soon. */
  get passes() {
    return [0, 429, 502, 503].includes(this.status);
  }
}

/** Ask for an address relative to the page; raises a Problem. */
export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Problem(response.status, said.detail, Number(response.headers.get("Retry-After")));
}

export async function askJson(address, options = {}) {
  const response = await ask(address, { ...options, headers: { Accept: "application/json", ...options.headers } });
  return response.json();
}

/** What a problem means, in a sentence that says what to do. */
export function explain({ status, detail, seconds }) {
  if (status === 0) return t(navigator.onLine ? "away" : "offline");
  if (status === 429) return t("busy", { seconds });
  if (status === 502) return t("away");
  if (status === 503) return /redis/i.test(detail) ? t(/DIGITS_REDIS_URL/.test(detail) ? "redis_missing" : "redis_away") : detail;
  if (status === 504) return t("slow");
  if (status === 404 && /version/.test(detail)) return t("unknown_version", { detail });
  if (status === 500) return t("failed");
  return detail || t("failed");
}

/** Do something, again and again while its problem passes; the notice says why it waits. */
export async function persist(action, signal) {
  for (let waited = false; ; waited = true) {
    try {
      const result = await action();
      if (waited) sayBack();
      return result;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      notice(explain(error));
      if (!error.passes) throw error;
      await pause(error.seconds * 1000, signal);
    }
  }
}

function sayBack() {
  const text = t("back");
  notice(text, "good");
  setTimeout(() => {
    if (document.getElementById("notice").textContent === text) notice("");
  }, 4000);
}
