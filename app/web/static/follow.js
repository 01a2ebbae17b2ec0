// The events of a job, without gaps: a connection that ends is opened again behind the last event.

import { ask, Problem } from "./api.js";
import { pause } from "./page.js";

const AGAIN_MILLISECONDS = 1000;
const SILENT_MILLISECONDS = 40_000; // the service says something every 15 s: then the connection is dead

/** Yields {event, data} until the job has ended. ``onProblem`` gets a Problem, or null once it is over. */
export async function* follow(job, onProblem) {
  let last = "";
  for (;;) {
    const patience = new AbortController();
    try {
      const answer = await ask(`jobs/${job}/events`, { headers: last ? { "Last-Event-ID": last } : {}, signal: patience.signal });
      onProblem(null);
      if (answer.status === 204) return;
      for await (const event of readEvents(answer.body, patience)) {
        last = event.id;
        yield event;
        if (event.event === "ended") return;
      }
    } catch (error) {
      if (error instanceof Problem && !error.passes) throw error;
      onProblem(error instanceof Problem ? error : new Problem(0));
    }
    await pause(AGAIN_MILLISECONDS);
  }
}

async function* readEvents(body, patience) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const timer = setTimeout(() => patience.abort(), SILENT_MILLISECONDS);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
      if (fields.event) yield { id: fields.id, event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
