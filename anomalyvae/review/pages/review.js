// The review page. Text from the server becomes text nodes, never markup.

import { MEANING, clock, drawMap, drawSignals, drawTimeline, figure, make, nameOf, span } from "./drawing.js";
import { beyond, filtered, offerRecordings, showList } from "./list.js";
import { ask, at, chip, place, score, showMessage, state, when } from "./state.js";

const KEYS = [
  ...Object.values(MEANING).map(([key, name, what]) => [key, `${name}: ${what}`]),
  ["j  ↓", "next event"], ["k  ↑", "previous event"], ["z", "undo"], ["t", "write a note (Esc: done)"],
  ["/", "search (Esc: clear)"], ["+  −", "show more or less time around the event"], ["?", "this help"],
];
const POLL_MS = 5000;

// --- events ------------------------------------------------------------------------------------------------

async function load(current = state.current) {
  const number = (state.asked += 1);
  const asked = { ...state.filter, reviewer: at("reviewer").value.trim(), current: current ?? "", known: state.total };
  const answer = await ask(`api/events?${new URLSearchParams(asked)}`);
  if (state.unsaved || number !== state.asked) return; // the page is ahead of the server
  const { recordings, ...told } = answer;
  const text = JSON.stringify(told);
  if (text === state.loaded) return;
  const before = state.byId.get(state.current);
  if (!state.total) at("reviewer").value ||= answer.reviewer;
  state.loaded = text;
  for (const name of ["events", "matching", "total", "counts", "second"]) state[name] = answer[name];
  state.orderedBy = answer.ordered_by;
  at("caution").textContent = answer.caution ?? "";
  at("caution").hidden = !answer.caution;
  state.byId = new Map([answer.current, ...state.events].filter(Boolean).map((event) => [event.event_id, event]));
  if (recordings) {
    offerRecordings(recordings);
    await loadMap();
  }
  showList();
  showMap();
  showScores();
  const now = state.byId.get(state.current);
  if (before && now && before.reviewed_at !== now.reviewed_at) await showHistory(now.event_id);
}

async function loadMap() {
  state.mapped = JSON.stringify(state.counts);
  state.map = await ask(`api/map?${new URLSearchParams({ current: state.current ?? "" })}`);
}

async function poll() {
  if (document.hidden || state.unsaved) return;
  try {
    await load();
    if (state.mapped !== JSON.stringify(state.counts)) { // somebody has given verdicts
      await Promise.all([loadMap(), state.current && showTimeline(state.current)]);
      showMap();
    }
    if (state.silent) showMessage();
    state.silent = false;
  } catch (error) {
    state.silent = true;
    showMessage(error.message);
  }
}

async function refilter() {
  const [status, verdict] = [state.filter.status, at("verdict-filter").value];
  if (verdict && (status === "open" || status === "second")) state.filter.status = "reviewed";
  state.filter.verdict = verdict;
  state.filter.recording = at("recording-filter").value;
  state.filter.text = at("search").value.trim().toLowerCase();
  for (const button of at("status").children) {
    button.setAttribute("aria-pressed", String(button.dataset.status === state.filter.status));
  }
  await state.saving;
  try {
    await load();
  } catch (error) {
    showMessage(error.message);
    return;
  }
  const events = filtered();
  if (events.length && !events.some((event) => event.event_id === state.current)) await open(events[0].event_id);
  else showList();
}

async function step(by) {
  const beside = () => {
    const events = filtered();
    const here = events.findIndex((event) => event.event_id === state.current);
    const next = events[here < 0 ? 0 : Math.min(Math.max(here + by, 0), events.length - 1)];
    const last = by > 0 && here === events.length - 1 && beyond() > 0;
    return { next, far: here >= 0 && (last || (by > 0 ? next : events[here]).gap) };
  };
  if (beside().far) await load(); // the page has the events around the one that was shown then
  const { next } = beside();
  if (next) open(next.event_id);
}

// --- one event -------------------------------------------------------------------------------------------

async function open(id) {
  if (!id) return;
  if (!state.byId.has(id)) {
    await state.saving;
    await load(id);
  }
  const event = state.byId.get(id);
  if (!event) return;
  const again = state.current === id;
  keepDraft();
  state.current = id;
  const events = filtered(); // those above were passed, and are not offered again unless nothing else is left
  for (const above of events.slice(0, 1 + events.indexOf(event))) state.passed.add(above.event_id);
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  showList();
  at("event").hidden = false;
  at("name").textContent = event.recording;
  at("facts").textContent = [
    span(event), `score ${score(event)}`, event.p_value === null ? "" : `p ${figure(event.p_value, 2)}`,
    `${event.windows} ${event.windows === 1 ? "window" : "windows"}`,
  ].filter(Boolean).join("  ·  ");
  at("note").value = state.drafts.get(id) ?? event.note ?? "";
  showVerdict(event);
  if (!again) showMessage();
  state.detail = state.view = state.timeline = null;
  await Promise.all([showHistory(id), showSignals(id), showTimeline(id)]);
}

function keepDraft() {
  const event = state.byId.get(state.current);
  if (!event) return;
  if (at("note").value !== (event.note ?? "")) state.drafts.set(state.current, at("note").value);
  else state.drafts.delete(state.current);
}

function showVerdict(event) {
  for (const button of at("verdicts").children) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === event.verdict));
  }
  const current = event.verdict && [chip(event.verdict), make("div", {}, `${event.reviewer}, ${when(event.reviewed_at)}`)];
  at("verdict").replaceChildren(...(current || ["Not reviewed"]));
}

async function showHistory(id) {
  let answer;
  try {
    answer = await ask(place(id));
  } catch (error) {
    if (id === state.current) showMessage(error.message);
    return;
  }
  if (id !== state.current) return;
  state.detail = answer.event;
  showVerdict(state.byId.get(id) ?? answer.event);
  showReasons(answer.event, answer.nearest);
  const back = new Set(answer.history.map((entry) => entry.takes_back).filter(Boolean));
  const entries = answer.history.filter((entry) => entry.verdict !== null).reverse();
  at("history").replaceChildren(...entries.map((entry) => make(
    "li",
    { className: back.has(entry.entry_id) ? "gone" : "" },
    chip(entry.verdict),
    make("span", { className: "muted" }, `${entry.reviewer}, ${when(entry.at)}`),
    entry.note ? make("q", {}, entry.note) : null,
  )));
  if (!entries.length) at("history").append(make("li", { className: "muted" }, "No verdict yet."));
  showMap();
  showLines();
}

function showReasons(event, nearestEvent) {
  const bars = event.signals.slice(0, 6).map((name, i) => {
    const bar = make("i");
    bar.style.width = `${100 * event.shares[i]}%`;
    return make("div", { className: "share", title: name }, make("span", {}, name),
      make("div", { className: "bar" }, bar), make("span", {}, `${Math.round(100 * event.shares[i])} %`));
  });
  const beyond = Object.entries(event.outside ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 4)
    .map(([name, widths]) => `${name} by ${figure(widths, 2)} of its width`);
  const outside = beyond.length
    ? [make("p", { className: "reason" }, `Outside the training range: ${beyond.join(", ")}.`)] : [];
  const near = state.byId.get(event.nearest) ?? nearestEvent;
  const nearest = near && make("p", { className: "reason" }, "Most similar reviewed event: ",
    make("button", { type: "button", onclick: () => open(near.event_id) }, `${near.recording}, ${clock(near.start_s)}`),
    `${near.verdict ? ` (${nameOf(near.verdict)})` : ""}, distance ${figure(event.nearest_distance, 2)}`);
  at("reasons").replaceChildren(...bars, ...outside, ...(nearest ? [nearest] : []));
}

async function showSignals(id) {
  const around = state.around === null ? "" : `?around_s=${state.around}`;
  try {
    const view = await ask(place(id, `/signals${around}`));
    if (id !== state.current) return;
    state.view = view;
    at("around").textContent = `± ${figure(view.around_s)} s`;
    showLines();
  } catch (error) {
    if (id === state.current) at("signals").replaceChildren(make("p", {}, error.message));
  }
}

async function showTimeline(id) {
  try {
    const timeline = await ask(place(id, "/timeline"));
    if (id !== state.current) return;
    state.timeline = timeline;
    at("timeline-panel").hidden = timeline === null;
    showScores();
    showLines(); // their height depends on it
  } catch (error) {
    if (id === state.current) at("timeline").replaceChildren(make("p", {}, error.message));
  }
}

function widen(times) {
  if (!state.view) return;
  state.around = Math.min(Math.max(state.view.around_s * times, 0.5), 600);
  showSignals(state.current);
}

// --- verdicts --------------------------------------------------------------------------------------------

function reviewer() {
  const name = at("reviewer").value.trim();
  at("reviewer").classList.toggle("missing", !name);
  if (!name) {
    at("reviewer").focus();
    showMessage("Enter your name first: each verdict is saved with it.");
  }
  return name;
}

function following(id) {
  const events = filtered();
  const here = events.findIndex((event) => event.event_id === id);
  const open = (event) => event.event_id !== id && (!event.verdict || state.filter.status === "second");
  const risen = events.slice(0, Math.max(here, 0)).find((event) => open(event) && !state.passed.has(event.event_id));
  return (risen ?? events.slice(here + 1).find(open) ?? events.slice(0, Math.max(here, 0)).findLast(open))?.event_id ?? id;
}

function give(verdict) {
  const [id, name] = [state.current, reviewer()];
  const event = state.byId.get(id);
  if (!event || !name) return;
  const note = at("note").value.trim();
  const [next, seen] = [following(id), event.reviewed_at ?? ""];
  const entry = { id, reviewed_at: null };
  state.given.push(entry);
  if (event.verdict) state.counts[event.verdict] -= 1;
  state.counts[verdict] += 1;
  const agreeing = [...(verdict === event.verdict ? event.agreeing.filter((other) => other !== name) : []), name];
  Object.assign(event, { verdict, note, reviewer: name, reviewed_at: new Date().toISOString(), agreeing });
  at("note").value = note;
  state.drafts.delete(id);
  save(id, async () => {
    const standing = await ask(place(id, "/verdict"), { verdict, note, reviewer: name, reviewed_at: seen });
    entry.reviewed_at = standing.reviewed_at;
    if (standing.overruled) showOverruled(entry, standing);
  }, () => state.given.splice(state.given.indexOf(entry), 1));
  open(next);
}

// Somebody else gave a verdict that this page had not shown yet. The message stays until the reviewer has read it.
function showOverruled(entry, standing) {
  const { verdict, reviewer: other, reviewed_at: then } = standing.overruled;
  const what = `${standing.recording}, ${clock(standing.start_s)}`;
  const line = make("p", { role: "alert" }, `You overruled ${other}, ${when(then)}, on ${what}: `,
    chip(verdict), " → ", chip(standing.verdict));
  const button = (text, action) => make("button", { type: "button", className: "quiet", onclick: () => {
    line.remove();
    action();
  } }, text);
  line.append(button("Undo", () => undo(entry)), button("Keep", () => {}));
  at("overruled").append(line);
}

function undo(given) {
  const name = reviewer();
  if (!name) return;
  if (given) state.given = state.given.filter((entry) => entry !== given);
  const entry = given ?? state.given.pop()
    ?? { id: state.current, reviewed_at: state.byId.get(state.current)?.reviewed_at };
  save(entry.id, async () => {
    if (!entry.reviewed_at) throw new Error("Nothing to undo.");
    await ask(place(entry.id, "/undo"), { reviewer: name, reviewed_at: entry.reviewed_at });
  }).then(() => open(entry.id));
}

// Requests are sent one after the other; the page does not wait for them.
function save(id, request, failed = () => {}) {
  state.unsaved += 1;
  state.saving = state.saving.then(request).then(() => null, (error) => error).then(async (error) => {
    state.unsaved -= 1;
    if (error) failed();
    state.loaded = "";
    await load().catch(() => {});
    if (error) {
      await open(id);
      showMessage(`Not saved: ${error.message}`);
    }
  });
  return state.saving;
}

// --- charts ----------------------------------------------------------------------------------------------

function showLines() {
  const { view, detail } = state;
  if (view && detail?.event_id === state.current) drawSignals(at("signals"), view, detail);
}

// Marks of a chart as the page knows the events now.
const asKnown = (marks) => marks.map((mark) => state.byId.get(mark.event_id) ?? mark);

function showMap() {
  if (!state.map) return;
  at("map-title").textContent = `Latent map (${Math.round(100 * state.map.explained)} % of the variance)`;
  const marks = new Map(asKnown(state.map.marks).map((event) => [event.event_id, event]));
  drawMap(at("map"), state.map, marks, state.current, open);
}

function showScores() {
  const { timeline } = state;
  const event = state.byId.get(state.current);
  if (!timeline || !event) return;
  const count = timeline.count === 1 ? "1 event" : `${timeline.count} events`;
  at("timeline-title").textContent = `Anomaly score of ${event.recording}, ${count}`;
  drawTimeline(at("timeline"), timeline, event, asKnown(timeline.events), open);
}

// --- keys and buttons ------------------------------------------------------------------------------------

const ACTIONS = {
  ...Object.fromEntries(Object.entries(MEANING).map(([verdict, [key]]) => [key, () => give(verdict)])),
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), z: () => undo(),
  t: () => at("note").focus(), "/": () => at("search").focus(), "+": () => widen(2), "-": () => widen(0.5),
  "?": () => at("help").showModal(),
};

document.addEventListener("keydown", (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey || at("help").open || key.isComposing) return;
  const field = key.target.closest("input, textarea, select");
  if (!field) {
    const action = ACTIONS[key.key];
    if (action && !(key.repeat && !["j", "k", "ArrowDown", "ArrowUp"].includes(key.key))) {
      key.preventDefault();
      action();
    }
  } else if (key.key === "Escape" || (key.key === "Enter" && field.tagName === "INPUT")) {
    if (key.key === "Escape" && field.id === "search") field.value = "";
    if (field.id === "search") refilter();
    field.blur();
  }
});

function build() {
  at("verdicts").append(...Object.entries(MEANING).map(([verdict, [key, name, what]]) => make(
    "button",
    { type: "button", className: verdict, title: what, "data-verdict": verdict, onclick: (click) => {
      click.currentTarget.blur();
      give(verdict);
    } },
    `${name} `, make("kbd", {}, key))));
  at("verdict-filter").append(...Object.entries(MEANING).map(([verdict, [, name]]) =>
    make("option", { value: verdict }, name)));
  at("keys").append(...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)]));
  for (const button of at("status").children) {
    button.addEventListener("click", () => {
      state.filter.status = button.dataset.status;
      if (["open", "second"].includes(state.filter.status)) at("verdict-filter").value = "";
      button.blur();
      refilter();
    });
  }
  for (const id of ["verdict-filter", "recording-filter"]) {
    at(id).addEventListener("change", () => { at(id).blur(); refilter(); });
  }
  at("search").addEventListener("input", refilter);
  at("list").addEventListener("click", (click) => open(click.target.closest("[data-event]")?.dataset.event));
  at("reviewer").addEventListener("input", () => {
    localStorage.setItem("reviewer", at("reviewer").value);
    load().catch(() => {});
  });
  at("undo").addEventListener("click", () => { at("undo").blur(); undo(); });
  at("wider").addEventListener("click", () => { at("wider").blur(); widen(2); });
  at("narrower").addEventListener("click", () => { at("narrower").blur(); widen(0.5); });
  at("help-button").addEventListener("click", () => { at("help-button").blur(); at("help").showModal(); });
  new ResizeObserver(() => { showLines(); showScores(); }).observe(at("main"));
  document.addEventListener("visibilitychange", poll);
  window.addEventListener("beforeunload", (leaving) => { if (state.unsaved) leaving.preventDefault(); });
  setInterval(poll, POLL_MS);
}

async function start() {
  build();
  at("reviewer").value = localStorage.getItem("reviewer") ?? "";
  try {
    await load(decodeURIComponent(location.hash.slice(1)));
  } catch (error) {
    showMessage(error.message);
    return;
  }
  const asked = state.byId.get(decodeURIComponent(location.hash.slice(1)));
  if (asked?.verdict) state.filter.status = "all";
  if (asked) await open(asked.event_id);
  refilter();
}

start();
