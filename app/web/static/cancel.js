// The buttons that cancel a job: each asks first.

import { ask, persist } from "./api.js";
import { find, notice } from "./page.js";

/** Let the buttons inside ``place`` cancel; ``refresh`` is called after a job was canceled. */
export function offerCancel(place, refresh) {
  const dialog = find("cancel");
  place.addEventListener("click", ({ target }) => {
    if (!target.dataset.cancel) return;
    notice("cancel", "");
    dialog.dataset.job = target.dataset.cancel;
    find("cancel-job").textContent = target.dataset.name;
    dialog.querySelector("form").reset();
    dialog.returnValue = "no";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "yes") return;
    const { job } = dialog.dataset; // the dialog may be opened for another one before this one is canceled
    const keep = new FormData(dialog.querySelector("form")).has("keep");
    await persist("cancel", () => ask(`jobs/${job}?keep=${keep}`, { method: "DELETE" }));
    await persist("jobs", refresh);
    const row = find(`job-${job}`);
    (row?.querySelector("a, button") ?? find("main")).focus(); // the button has gone
  });
}
