// What the parts of the review page share: its state, requests to the server, and messages to the reviewer.

import { figure, make, nameOf } from "./drawing.js";

export const at = (id) => document.getElementById(id);
export const state = {
  events: [], matching: 0, total: 0, counts: {}, second: 0, orderedBy: 0, byId: new Map(), passed: new Set(), asked: 0,
  current: null, detail: null, view: null, timeline: null,
  map: null, mapped: "", around: null,
  drafts: new Map(), given: [], saving: Promise.resolve(), unsaved: 0, loaded: "",
  filter: { status: "open", text: "", verdict: "", recording: "" },
};

export const chip = (verdict) => make("span", { className: `chip ${verdict}` }, nameOf(verdict));
export const when = (text) => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
export const score = ({ peak_score: value }) => (Math.abs(value) < 100 ? value.toFixed(2).replace("-", "−") : figure(value));

export async function ask(url, body) {
  const request = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive: true,
  };
  let answer;
  try {
    answer = await fetch(url, request);
  } catch {
    throw new Error("The server does not answer. Is 'anomalyvae review' still running?");
  }
  const result = await answer.json().catch(() => ({ error: `The server failed (${answer.status}).` }));
  if (!answer.ok) throw new Error(result.error ?? `The server returned an error (${answer.status}).`);
  return result;
}

export const place = (id, what = "") => `api/events/${encodeURIComponent(id)}${what}`;

export function showMessage(text) {
  at("message").textContent = text ?? "";
  at("message").hidden = !text;
}
