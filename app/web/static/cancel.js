// The buttons that cancel a job: each asks first.

import { ask, explain } from "./api.js";
import { notice } from "./page.js";

/** Show the buttons inside ``place``; ``refresh`` is called after a job was canceled. */
export function offerCancel(place, refresh) {
  const dialog = document.getElementById("cancel");
  let job = "";
  place.addEventListener("click", ({ target }) => {
    if (!target.dataset.cancel) return;
    job = target.dataset.cancel;
    dialog.querySelector("form").reset();
    dialog.returnValue = "no";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "yes") return;
    const keep = new FormData(dialog.querySelector("form")).has("keep");
    try {
      await ask(`jobs/${job}?keep=${keep}`, { method: "DELETE" });
      notice("");
    } catch (problem) {
      notice(explain(problem));
    }
    await refresh();
  });
}
