// The list of events, and the progress bar.

import { MEANING, colour, make, nameOf, span } from "./drawing.js";
import { at, chip, score, state } from "./state.js";

const LISTED = 400;

// New normals by one reviewer only, who is somebody else: repeating one's own verdict confirms nothing.
const isForSecondLook = ({ verdict, agreeing }) =>
  verdict === "new_normal" && agreeing.length === 1 && agreeing[0] !== at("reviewer").value.trim();

function passes(event) {
  const { status, text, verdict, recording } = state.filter;
  if (status === "second" && !isForSecondLook(event)) return false;
  if (status === "open" ? event.verdict : status === "reviewed" && !event.verdict) return false;
  if ((verdict && event.verdict !== verdict) || (recording && event.recording !== recording)) return false;
  const words = [event.recording, event.verdict && nameOf(event.verdict), event.note, event.reviewer, ...event.signals.slice(0, 3)];
  return !text || words.some((part) => part?.toLowerCase().includes(text));
}

export const filtered = () => state.events.filter(passes);

export function showList() {
  const events = filtered();
  const here = Math.max(events.findIndex((event) => event.event_id === state.current), 0);
  const first = Math.max(0, Math.min(here - LISTED / 2, events.length - LISTED));
  const shown = events.slice(first, first + LISTED);
  at("list").replaceChildren(...shown.map((event) => make(
    "div",
    {
      className: "item", role: "option", "aria-selected": String(event.event_id === state.current),
      "data-event": event.event_id,
    },
    make("b", { title: event.recording }, event.recording),
    make("span", { className: "score" }, score(event)),
    make("small", {}, [span(event), event.shares[0] > 0 ? event.signals[0] : ""].filter(Boolean).join("  ·  ")),
    event.verdict ? chip(event.verdict) : null,
  )));
  at("list").querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  const part = shown.length < events.length ? `, ${shown.length} listed` : "";
  const by = state.orderedBy === 1 ? "1 verdict" : `${state.orderedBy} verdicts`;
  at("shown").textContent = `${events.length} of ${state.events.length} events${part}, by score${state.orderedBy ? ` and ${by}` : ""}`;
  at("shown").title = state.orderedBy ? "Open events like a fault are higher, those like a normal event or noise lower. Scores and flags stay." : "";
  at("nothing").hidden = Boolean(state.byId.get(state.current)) || events.length > 0;
  const waiting = state.events.filter(isForSecondLook).length;
  at("status").querySelector("[data-status=second]").textContent = `2nd look${waiting ? ` (${waiting})` : ""}`;
  showProgress();
}

function showProgress() {
  const count = Object.fromEntries(Object.keys(MEANING).map((verdict) => [verdict, 0]));
  for (const event of state.events) if (event.verdict) count[event.verdict] += 1;
  const done = Object.values(count).reduce((sum, part) => sum + part, 0);
  const bars = Object.entries(count).map(([verdict, part]) => {
    const bar = make("i", { title: `${nameOf(verdict)}: ${part}` });
    bar.style.background = colour(verdict);
    bar.style.width = `${(100 * part) / Math.max(state.events.length, 1)}%`;
    return bar;
  });
  at("progress").replaceChildren(...bars);
  at("done").textContent = `${done} of ${state.events.length} reviewed`;
  document.title = `${state.events.length - done} to review · anomalyvae`;
}

export function offerRecordings() {
  const names = [...new Set(state.events.map((event) => event.recording))].sort();
  const options = names.map((name) => make("option", { value: name }, name));
  at("recording-filter").replaceChildren(make("option", { value: "" }, "Any recording"), ...options);
  at("recording-filter").value = state.filter.recording;
}
