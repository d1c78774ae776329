// The list of events, and the progress bar.

import { colour, make, nameOf, span } from "./drawing.js";
import { at, chip, score, state } from "./state.js";

// The server has filtered the events; a verdict that is on its way to it counts at once.
function passes({ verdict, agreeing }) {
  const { status, verdict: wanted } = state.filter;
  if (status === "open" ? verdict : status === "reviewed" && !verdict) return false;
  const alone = verdict === "new_normal" && agreeing.length === 1 && agreeing[0] !== at("reviewer").value.trim();
  return (!wanted || verdict === wanted) && (status !== "second" || alone);
}

export const filtered = () => state.events.filter(passes);

// How many events follow those that the page has.
export const beyond = () => state.matching - state.events.reduce((sum, { gap }) => sum + 1 + (gap ?? 0), 0);

const more = (count) => (count > 0 ? [make("div", { className: "gap", role: "presentation" }, `… ${count} more`)] : []);

export function showList() {
  const events = filtered();
  at("list").replaceChildren(...events.flatMap((event) => [...more(event.gap), make(
    "div",
    {
      className: "item", role: "option", "aria-selected": String(event.event_id === state.current),
      "data-event": event.event_id,
    },
    make("b", { title: event.recording }, event.recording),
    make("span", { className: "score" }, score(event)),
    make("small", {}, [span(event), event.shares[0] > 0 ? event.signals[0] : ""].filter(Boolean).join("  ·  ")),
    event.verdict ? chip(event.verdict) : null,
  )]), ...more(beyond()));
  at("list").querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  const matching = state.matching - state.events.length + events.length;
  const part = events.length < matching ? `, ${events.length} listed` : "";
  const by = state.orderedBy === 1 ? "1 verdict" : `${state.orderedBy} verdicts`;
  at("shown").textContent = `${matching} of ${state.total} events${part}, by score${state.orderedBy ? ` and ${by}` : ""}`;
  at("shown").title = state.orderedBy ? "Open events like a fault are higher, those like a normal event or noise lower. Scores and flags stay." : "";
  at("nothing").hidden = Boolean(state.byId.get(state.current)) || events.length > 0;
  at("status").querySelector("[data-status=second]").textContent = `2nd look${state.second ? ` (${state.second})` : ""}`;
  showProgress();
}

function showProgress() {
  const done = Object.values(state.counts).reduce((sum, part) => sum + part, 0);
  const bars = Object.entries(state.counts).map(([verdict, part]) => {
    const bar = make("i", { title: `${nameOf(verdict)}: ${part}` });
    bar.style.background = colour(verdict);
    bar.style.width = `${(100 * part) / Math.max(state.total, 1)}%`;
    return bar;
  });
  at("progress").replaceChildren(...bars);
  at("done").textContent = `${done} of ${state.total} reviewed`;
  document.title = `${state.total - done} to review · anomalyvae`;
}

export function offerRecordings(names) {
  const options = names.map((name) => make("option", { value: name }, name));
  at("recording-filter").replaceChildren(make("option", { value: "" }, "Any recording"), ...options);
  at("recording-filter").value = state.filter.recording;
}
