// Questions to the API, and what to say when it does not answer as hoped.

import { data, notice, pause, t, withdraw } from "./page.js";

export const AGAIN_SECONDS = 1; // between two tries while the service is away
const MOST_SECONDS = 10; // the same if the service has much to do: its own guess is for the worst case
const BACK_MILLISECONDS = 4000; // that the page says that the service is back

/** An answer that is no success. Status 0: there was no answer. */
export class Problem extends Error {
  constructor(status, said = {}, seconds = 0) {
    super(said.detail);
    this.status = status;
    this.detail = said.detail ?? "";
    this.errors = said.errors ?? []; // {field, detail, bound}
    this.seconds = Math.min(seconds || AGAIN_SECONDS, MOST_SECONDS); // until another try is worth it
  }

  /** Whether the same question may succeed soon. */
  get passes() {
    return this.isAway || [429, 503].includes(this.status);
  }

  /** Whether the service does not answer, or a proxy does in its place: the service's own 504 says why. */
  get isAway() {
    return [0, 502].includes(this.status) || (this.status === 504 && !this.detail);
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
  throw new Problem(response.status, said, Number(response.headers.get("Retry-After")));
}

/** Ask, and read the whole answer as "json", "text" or "blob": gives it and its headers. */
export async function read(kind, address, options = {}) {
  const answer = await ask(address, options);
  try {
    return [await answer[kind](), answer.headers];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0); // the connection ended in its midst
  }
}

export async function askJson(address, options = {}) {
  const [said] = await read("json", address, { ...options, headers: { Accept: "application/json", ...options.headers } });
  return said;
}

/** What a problem means, in a sentence that says what to do. */
export function explain(problem) {
  const { status, detail, errors, seconds } = problem;
  if (problem.isAway) return t(status === 0 && !navigator.onLine ? "offline" : "away");
  if (status === 401) return t("key_gone");
  if (status === 403 && errors[0]?.bound?.needed) return t("key_lacks", { scope: errors[0].bound.needed });
  if (status === 403 && errors[0]?.field === "job_id") return t("not_yours");
  if (status === 404 && (!detail || /no job/.test(detail))) return t("unknown_job"); // a view says it without JSON
  if (status === 404 && errors[0]?.field === "version") return t("unknown_version", { detail });
  if (status === 409) return t("over");
  if (status === 422 && errors.length) return errors.map(explainField).join(" ");
  if (status === 429) return t("busy", { seconds });
  if (status === 503) return /redis/i.test(detail) ? t(/DIGITS_REDIS_URL/.test(detail) ? "redis_missing" : "redis_away") : t("not_now", { detail });
  if (status === 504) return t("slow");
  return status < 500 && detail ? detail : t("failed");
}

function explainField({ field, detail, bound }) {
  const label = data.labels?.[field] ?? field;
  if (/ are wanted$/.test(detail)) return t("too_few", { bound: bound.le });
  if (field === "text" && bound?.le !== undefined) return t("too_long", { field: label, bound: bound.le });
  if (bound?.le !== undefined) return t("at_most", { field: label, bound: bound.le });
  if (bound?.ge !== undefined) return t("at_least", { field: label, bound: bound.ge });
  return t("not_so", { field: label, detail });
}

/**
 * Do something, again and again while its problem passes. The notice of ``who`` says why it waits, and what went wrong.
 * Gives undefined if it was aborted, or if it cannot succeed.
 */
export async function persist(who, action, signal) {
  for (let waited = false; ; waited = true) {
    try {
      const result = await action();
      if (signal?.aborted) return undefined;
      notice(who, waited ? t("back") : "", "good");
      if (waited) setTimeout(() => withdraw(who, t("back")), BACK_MILLISECONDS);
      return result;
    } catch (error) {
      if (signal?.aborted) return undefined;
      if (!(error instanceof Problem)) throw error;
      notice(who, explain(error));
      if (!error.passes) return undefined;
      await pause(error.seconds * 1000);
      if (signal?.aborted) return undefined;
    }
  }
}

const MOST_REPAIRS = 3; // of one picture that is there each time, and still cannot be shown

const broken = new Map(); // image → {address, trying, repairs}: what could not be loaded, and what stops its next try

/** A picture that could not be loaded is asked for again, which also says why. */
async function repair(image) {
  const address = image.getAttribute("src");
  if (!address || /^(data|blob):/.test(address)) return;
  const before = broken.get(image);
  const repairs = before?.address === address ? before.repairs + 1 : 1;
  if (repairs > MOST_REPAIRS) return;
  forget(image);
  const trying = new AbortController();
  broken.set(image, { address, trying, repairs });
  const isThere = await persist("pictures", () => ask(address, { signal: trying.signal }), trying.signal);
  if (isThere && image.getAttribute("src") === address) image.src = address;
}

/** Something else is shown in its place. */
function forget(image) {
  broken.get(image)?.trying.abort();
  const before = broken.size;
  broken.delete(image);
  for (const other of broken.keys()) if (!other.isConnected) broken.delete(other); // of a dialog that was filled anew
  if (before && !broken.size) notice("pictures", "");
}

document.addEventListener("error", ({ target }) => target instanceof HTMLImageElement && repair(target), true);
document.addEventListener("load", ({ target }) => forget(target), true);
for (const image of document.images) if (image.complete && !image.naturalWidth) repair(image); // before this script ran
