// The charts of the review page as SVG, and the names and numbers that they share with the rest of the page.

// Of each verdict: its key, its name, and what it means.
export const MEANING = {
  new_normal: ["n", "New normal", "normal, but new to the model; it is learned"],
  fault: ["f", "Fault", "a real fault; never learned as normal"],
  noise: ["x", "Noise", "of no interest; left out"],
  unsure: ["u", "Unsure", "decide later"],
};

export const nameOf = (verdict) => MEANING[verdict]?.[1] ?? verdict;

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function shape(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

export function clock(seconds, step = 1) {
  const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  const whole = Number(Math.abs(seconds).toFixed(digits));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  const sign = seconds < 0 && whole ? "−" : "";
  return sign + (hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`);
}

export function figure(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(1).replace("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
}

function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) marks.push(i * step);
  return marks;
}

function timeTicks(low, high, most) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600];
  const step = steps.find((size) => (high - low) / size <= most) ?? 43200;
  const marks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) marks.push(i * step);
  return [marks, step];
}

function path(times, values, step, x, y) {
  let drawn = "", last = null;
  values.forEach((value, i) => {
    if (value === null) { last = null; return; }
    const joined = last !== null && times[i] - last <= 1.6 * step;
    drawn += `${joined ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    last = times[i];
  });
  return drawn;
}

function range(values, share = 0) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  const cut = Math.floor(share * (known.length - 1));
  const [low, high] = [known[cut], known[known.length - 1 - cut]];
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
}

// A colour of the style sheet, by the name of a verdict or of a part of a chart.
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name ?? "open"}`).trim();
export const span = (event) => {
  const step = event.end_s - event.start_s < 10 ? 0.1 : 1;
  return `${clock(event.start_s, step)} – ${clock(event.end_s, step)}`;
};

// A label below an axis of time, moved inward at its end.
function timeLabel(x, y, width, text) {
  return shape("text", { x: Math.min(x, width - 3.6 * text.length), y, "text-anchor": "middle" }, text);
}

// The signals of an event, the largest share first, with their reconstruction.
export function drawSignals(host, view, detail) {
  const rank = new Map(detail.signals.map((name, i) => [name, i]));
  const share = new Map(detail.signals.map((name, i) => [name, detail.shares[i]]));
  const signals = [...view.signals].sort((a, b) => (rank.get(a.name) ?? 1e9) - (rank.get(b.name) ?? 1e9));
  const width = Math.max(host.clientWidth, 300);
  const [left, right, foot] = [46, 8, 20];
  const row = Math.min(Math.max(Math.floor((host.clientHeight - foot) / signals.length), 52), 130);
  const height = row * signals.length + foot;
  const [low, high] = [view.time_s[0], view.time_s[view.time_s.length - 1]];
  const x = (time) => left + ((time - low) / Math.max(high - low, 1e-9)) * (width - left - right);
  const clip = (time) => Math.min(Math.max(x(time), left), width - right);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });

  const band = (start, end, fill) => svg.append(
    shape("rect", { x: clip(start), width: Math.max(clip(end) - clip(start), 1), y: 0, height: height - foot, fill }));
  band(detail.start_s, detail.end_s, colour("event"));
  band(detail.peak_start_s, detail.peak_end_s, colour("peak"));
  const [marks, tick] = timeTicks(low, high, Math.max(width / 110, 2));
  for (const mark of marks) {
    svg.append(shape("line", { x1: x(mark), x2: x(mark), y1: height - foot, y2: height - foot + 4, stroke: colour("tick") }));
    svg.append(timeLabel(x(mark), height - 4, width, clock(mark, tick)));
  }

  const rows = signals.map((signal, i) => {
    const [top, hot] = [i * row, i === 0 && share.get(signal.name) > 0];
    const [least, most] = range([...signal.values, ...signal.reconstruction]);
    const y = (value) => top + row - 8 - ((value - least) / (most - least)) * (row - 34);
    svg.append(shape("line", { x1: left, x2: width - right, y1: top + row, y2: top + row, stroke: colour("rule") }));
    for (const mark of ticks(least, most, 2)) {
      svg.append(shape("text", { x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, figure(mark)));
      svg.append(shape("line", { x1: left - 4, x2: left, y1: y(mark), y2: y(mark), stroke: colour("tick") }));
    }
    const stroke = colour(hot ? "hot" : "ink");
    svg.append(shape("path", { d: path(view.time_s, signal.values, view.step_s, x, y), fill: "none", stroke,
      "stroke-width": 1.4, "stroke-linejoin": "round" }));
    svg.append(shape("path", { d: path(view.time_s, signal.reconstruction, view.step_s, x, y), fill: "none",
      stroke: colour("model"), "stroke-width": 1.4, "stroke-dasharray": "4 2.5" }));
    const label = shape("text", { x: left + 6, y: top + 16, class: `name readout${hot ? " hot" : ""}` },
      signal.name.length > 48 ? `${signal.name.slice(0, 47)}…` : signal.name);
    label.append(shape("title", {}, signal.name));
    if (signal.unit) {
      const unit = shape("tspan", { dx: 5, "font-weight": 400 }, signal.unit);
      label.append(unit);
    }
    svg.append(label);
    const part = share.get(signal.name);
    const percent = part === undefined ? "" : `${Math.round(100 * part)} %`;
    svg.append(shape("text", { x: width - right - 2, y: top + 16, "text-anchor": "end",
      class: `readout${hot ? " hot" : ""}` }, percent));
    return { signal, y, value: svg.appendChild(shape("text", { y: top + 30, class: "value readout" })) };
  });

  const line = svg.appendChild(shape("line", { y1: 0, y2: height - foot, stroke: colour("muted"), visibility: "hidden" }));
  svg.addEventListener("pointermove", (pointer) => {
    const box = svg.getBoundingClientRect();
    const time = low + (((pointer.clientX - box.left) / box.width) * width - left) / (width - left - right) * (high - low);
    const inside = time >= low && time <= high;
    line.setAttribute("visibility", inside ? "visible" : "hidden");
    line.setAttribute("x1", x(time));
    line.setAttribute("x2", x(time));
    const nearest = view.time_s.reduce((best, t, i) =>
      Math.abs(t - time) < Math.abs(view.time_s[best] - time) ? i : best, 0);
    for (const { signal, value } of rows) {
      const toLeft = x(time) > width / 2;
      value.setAttribute("x", x(time) + (toLeft ? -6 : 6));
      value.setAttribute("text-anchor", toLeft ? "end" : "start");
      value.textContent = inside ? figure(signal.values[nearest], 4) : "";
    }
  });
  svg.addEventListener("pointerleave", () => {
    line.setAttribute("visibility", "hidden");
    for (const { value } of rows) value.textContent = "";
  });
  host.replaceChildren(svg);
}

// The latent map: training rows, and events in the colour of their verdict.
export function drawMap(host, map, events, current, pick) {
  const own = Object.entries(map.events).filter(([id]) => events.has(id));
  if (!own.length) {
    host.replaceChildren(make("p", {}, "These events were flagged by another model."));
    return;
  }
  const [width, height, edge] = [264, 156, 9];
  const side = (axis) => {
    const ours = range(own.map(([, point]) => point[axis]));
    const training = map.training.length ? range(map.training.map((point) => point[axis]), 0.005) : ours;
    return [Math.min(ours[0], training[0]), Math.max(ours[1], training[1])];
  };
  const [[left, right], [bottom, top]] = [side(0), side(1)];
  const x = (value) => edge + ((value - left) / (right - left)) * (width - 2 * edge);
  const y = (value) => height - edge - ((value - bottom) / (top - bottom)) * (height - 2 * edge);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const grey = colour("training");
  for (const point of map.training) {
    svg.append(shape("circle", { cx: x(point[0]), cy: y(point[1]), r: 1.5, fill: grey }));
  }
  const last = ([id]) => (id === current ? 2 : events.get(id).verdict ? 1 : 0);
  for (const [id, point] of own.sort((a, b) => last(a) - last(b))) {
    const event = events.get(id);
    const dot = shape("circle", { cx: x(point[0]), cy: y(point[1]), r: 3.4, class: "pick", "stroke-width": 1.2,
      fill: event.verdict ? colour(event.verdict) : "#fff", stroke: colour(event.verdict) });
    dot.append(shape("title", {}, `${event.recording}, ${span(event)}${event.verdict ? `: ${nameOf(event.verdict)}` : ""}`));
    dot.addEventListener("click", () => pick(id));
    svg.append(dot);
    if (id === current) {
      svg.append(shape("circle", { cx: x(point[0]), cy: y(point[1]), r: 8, fill: "none", stroke: colour("ink"),
        "stroke-width": 1.8 }));
    }
  }
  const legend = make("div", { className: "legend" });
  const entry = (name, fill, edge) => {
    const dot = make("i", { className: "dot" });
    dot.style.background = fill;
    dot.style.boxShadow = `inset 0 0 0 1.2px ${edge}`;
    legend.append(make("span", {}, dot, name));
  };
  if (map.training.length) entry("training", grey, grey);
  entry("open", "#fff", colour(null));
  legend.append(make("span", {}, "filled: reviewed"));
  host.replaceChildren(svg, legend);
}

// The anomaly score over a recording, with its events below.
export function drawTimeline(host, timeline, event, others, pick) {
  const [width, height, left, right, foot] = [Math.max(host.clientWidth, 300), 118, 46, 8, 20];
  const end = Math.max(timeline.end_s, ...others.map((other) => other.end_s));
  const x = (time) => left + (time / Math.max(end, 1e-9)) * (width - left - right);
  const [low, high] = range([...timeline.score, timeline.threshold]);
  const floor = height - foot - 14;
  const y = (value) => floor - ((value - low) / (high - low)) * (floor - 8);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });

  svg.append(shape("rect", { x: x(event.start_s) - 1, width: Math.max(x(event.end_s) - x(event.start_s), 1) + 2, y: 0,
    height: height - foot, fill: colour("event") }));
  for (const mark of ticks(low, high, 3)) {
    svg.append(shape("text", { x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, figure(mark)));
  }
  const line = (values, stroke, width) => svg.append(shape("path", { d: path(timeline.time_s, values, timeline.step_s, x, y),
    fill: "none", stroke, "stroke-width": width, "stroke-linejoin": "round" }));
  svg.append(shape("line", { x1: left, x2: width - right, y1: y(timeline.threshold), y2: y(timeline.threshold),
    stroke: colour("ink"), "stroke-width": 0.8, "stroke-dasharray": "4 3" }));
  line(timeline.score, colour("score"), 1);
  line(timeline.score.map((value) => (value !== null && value >= timeline.threshold ? value : null)), colour("hot"), 1.6);
  for (const other of others) {
    const here = other.event_id === event.event_id;
    const mark = shape("rect", { x: x(other.start_s) - 1, width: Math.max(x(other.end_s) - x(other.start_s), 2) + 2,
      y: height - foot - 9, height: 7, rx: 2, class: "pick", "stroke-width": here ? 1.6 : 1,
      fill: other.verdict ? colour(other.verdict) : "#fff", stroke: colour(other.verdict ?? "ink") });
    mark.append(shape("title", {}, `${span(other)}${other.verdict ? `: ${nameOf(other.verdict)}` : ""}`));
    mark.addEventListener("click", () => pick(other.event_id));
    svg.append(mark);
  }
  const [marks, tick] = timeTicks(0, end, width / 90);
  for (const mark of marks) {
    svg.append(timeLabel(x(mark), height - 4, width, clock(mark, tick)));
  }
  host.replaceChildren(svg);
}
