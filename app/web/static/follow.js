// The events of a job, without gaps: a connection that ends is opened again behind the last event.

import { AGAIN_SECONDS, ask, Problem } from "./api.js";
import { pause } from "./page.js";

const SILENT_MILLISECONDS = 40_000; // the service says something every 15 s: then the connection is dead

/** Yields {event, data} until the job has ended. ``onProblem`` gets a Problem, or null once it is over. */
export async function* follow(job, onProblem) {
  let last = "";
  for (;;) {
    const patience = new AbortController();
    const waitFor = (promise) => {
      const timer = setTimeout(() => patience.abort(), SILENT_MILLISECONDS);
      return promise.finally(() => clearTimeout(timer));
    };
    let seconds = AGAIN_SECONDS;
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await waitFor(ask(`jobs/${job}/events`, { headers, signal: patience.signal }));
      onProblem(null);
      if (answer.status === 204) return;
      for await (const event of readEvents(answer.body, waitFor)) {
        last = event.id;
        yield event;
        if (event.event === "ended") return;
      }
    } catch (error) {
      const problem = error instanceof Problem ? error : new Problem(0);
      if (!problem.passes && problem.status < 500) throw problem;
      onProblem(problem);
      seconds = problem.seconds;
    }
    await pause(seconds * 1000);
  }
}

/** What an event says; nothing if it is damaged. */
function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

async function* readEvents(body, waitFor) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await waitFor(reader.read());
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
      if (fields.event) yield { id: fields.id, event: fields.event, data: parse(fields.data) };
    }
  }
}
