// Reads api/deploys and api/caches again and again and shows them. Whatever comes from there is put in
// as text, never as markup.

const EVERY = 2000;
const STAGES = ["requested", "launched", "registered", "gpu-allocatable", "scheduled", "image-ready",
  "weights-ready", "started", "serving"];
const MARKS = { verified: "✓", unverified: "?", failed: "✕", wanted: "○", absent: "·" };
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;

const open = new Set();

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function span(seconds) {
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 999.5) return `${seconds.toFixed(0)} s`;
  if (seconds < 36000) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(0)} h`;
}

function size(bytes) {
  for (const [unit, one] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= one) return `${(bytes / one).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

// Digests and commits by their beginning; the whole is in the title.
function short(name) {
  return name.replace(/@(sha256:)?([0-9a-f]{10})[0-9a-f]{30,}/, "@$1$2…");
}

function legend() {
  const list = document.getElementById("legend");
  for (const stage of STAGES) {
    const mark = shape("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" },
      shape("rect", { width: 12, height: 12, rx: 2, class: stage }));
    list.append(element("li", {}, mark, stage));
  }
}

// A round number of seconds that is not less.
function axis(seconds) {
  for (let step = 1; ; step *= 10) {
    for (const factor of [1, 2, 3, 5]) {
      if (step * factor * 10 >= seconds) return step * factor * 10;
    }
  }
}

function gantt(deploy, longest) {
  const x = (seconds) => Math.max(0, Math.min(WIDTH, (seconds / longest) * WIDTH));
  const bars = [];
  const bar = (from, to, y, height, name, title) => {
    const width = x(to) - x(from);
    if (width <= 0) return;
    const made = shape("rect", { x: x(from), y, width, height, class: name });
    made.append(shape("title", {}, title));
    bars.push(made);
  };
  for (const one of deploy.stages) {
    bar(one.startSeconds, one.startSeconds + one.seconds, 0, 22, one.stage, `${one.stage} ${span(one.seconds)}`);
  }
  const moved = deploy.items.filter((item) => item.startSeconds !== null && item.endSeconds > 0);
  moved.forEach((item, index) => {
    const hidden = item.exposedSeconds > 0 ? "" : " hidden-bytes";
    bar(item.startSeconds, item.endSeconds, 27 + index * 9, 6, item.kind + hidden, `${item.name}: ${span(item.endSeconds - item.startSeconds)}`);
  });
  const height = 26 + moved.length * 9;
  const said = deploy.stages.filter((one) => one.seconds >= 0.05)
    .map((one) => `${one.stage} ${span(one.seconds)}`).join(", ");
  const drawn = shape("svg", {
    class: "gantt", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `Waited for: ${said}`,
  }, ...bars, shape("line", { class: "axis", x1: 0, x2: WIDTH, y1: 24.5, y2: 24.5 }));
  return drawn;
}

function row(cells, kind = "td") {
  return element("tr", {}, ...cells.map((cell) => element(kind, kind === "th" ? { scope: "col" } : {}, cell)));
}

function details(deploy) {
  const stages = element("table", {}, element("caption", { class: "sr" }, "Stages"),
    row(["stage", "after", "waited", ""], "th"),
    ...deploy.stages.map((one) => row([one.stage, span(one.startSeconds), span(one.seconds),
      { "at-most": "at most", open: "under way", missing: "not stamped", nothing: "nothing to wait for" }[one.known] ?? ""])),
    row(["sum", "", span(deploy.wallSeconds), ""]));
  const items = element("table", {}, element("caption", { class: "sr" }, "Images and weights"),
    row(["item", "size", "beforehand", "waited", "exposed"], "th"),
    ...deploy.items.map((item) => row([short(item.name), item.bytes === null ? "unknown" : size(item.bytes),
      item.cached, span(item.exposedSeconds), size(item.exposedBytes)])));
  const made = element("details", {}, element("summary", {}, "Stages, bytes and remarks"),
    element("div", { class: "wide" }, stages), element("div", { class: "wide" }, items));
  if (deploy.remarks.length > 0) {
    made.append(element("ul", { class: "remarks" }, ...deploy.remarks.map((text) => element("li", {}, text))));
  }
  made.open = open.has(deploy.uid);
  made.addEventListener("toggle", () => (made.open ? open.add(deploy.uid) : open.delete(deploy.uid)));
  return made;
}

function article(deploy, longest) {
  const most = deploy.exposedAtMost ? "at most " : "";
  const exposed = `${most}${span(deploy.exposedByteSeconds)} exposed byte time`;
  const state = deploy.served === null
    ? element("span", { class: "state waiting" }, `waits for ${deploy.waitsFor ?? "a node"}, ${span(deploy.wallSeconds)} so far`)
    : element("span", { class: "state served" }, `served after ${span(deploy.wallSeconds)}`);
  const facts = [deploy.cached, deploy.capacityType, deploy.instanceType, deploy.node,
    deploy.usdPerHour === null ? null : `${deploy.usdPerHour.toFixed(2)} USD/h`, exposed,
    `${span(deploy.hiddenByteSeconds)} hidden`];
  return element("article", { "data-uid": deploy.uid },
    element("div", { class: "head" }, element("h3", {}, `${deploy.namespace}/${deploy.pod}`), state),
    element("div", { class: "facts" }, facts.filter((fact) => fact !== null).join(" · ")),
    gantt(deploy, longest),
    element("div", { class: "scale", "aria-hidden": "true" }, element("span", {}, "0"), element("span", {}, span(longest))),
    details(deploy));
}

function showDeploys(form) {
  const list = document.getElementById("deploy-list");
  const longest = axis(Math.max(10, ...form.deploys.map((deploy) => deploy.wallSeconds)));
  const focused = document.activeElement?.closest?.("article")?.dataset.uid;
  const shown = form.deploys.map((deploy) => article(deploy, longest));
  if (shown.length === 0) shown.push(element("p", {}, "No pod with a GPU or a model has been deployed."));
  if (form.leftOut > 0) shown.push(element("p", { class: "dim" }, `${form.leftOut} older ones are not shown.`));
  list.replaceChildren(...shown);
  if (focused) list.querySelector(`article[data-uid="${CSS.escape(focused)}"] summary`)?.focus();
}

function showCaches(form) {
  const map = document.getElementById("cache-map");
  if (form.nodes.length === 0) {
    map.replaceChildren(element("p", {}, "No node has or wants anything."));
    return;
  }
  const heads = form.nodes.map((node) => {
    const said = node.problem ? `${node.name}: ${node.problem}` : node.name;
    return element("th", { scope: "col", title: said }, element("span", {}, node.name));
  });
  const rows = form.items.map((item) => {
    const cells = item.cells.map((cell, index) => {
      const mark = cell.state === "partial" ? (cell.percent === null ? "…" : `${cell.percent}`) : MARKS[cell.state] ?? "?";
      const said = `${cell.state}${cell.problem ? `: ${cell.problem}` : ""}`;
      return element("td", { class: cell.state, title: `${form.nodes[index].name}: ${said}` },
        element("span", { "aria-hidden": "true" }, mark), element("span", { class: "sr" }, said));
    });
    return element("tr", {}, element("th", { scope: "row", title: item.name }, short(item.name)), ...cells);
  });
  const table = element("table", { class: "map" },
    element("caption", { class: "sr" }, "What each node has, items by nodes"),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "item"), ...heads)),
    element("tbody", {}, ...rows));
  const left = [];
  if (form.nodesLeftOut > 0) left.push(`${form.nodesLeftOut} more nodes`);
  if (form.itemsLeftOut > 0) left.push(`${form.itemsLeftOut} more items`);
  const note = left.length > 0 ? [element("p", { class: "dim" }, `Not shown: ${left.join(" and ")}.`)] : [];
  map.replaceChildren(table, ...note);
}

async function read(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function say(text, kind) {
  const status = document.getElementById("status");
  if (status.textContent !== text) status.textContent = text;
  status.className = kind;
}

let last = { deploys: -1, caches: -1 };

async function look() {
  try {
    const [deploys, caches] = await Promise.all([read("api/deploys"), read("api/caches")]);
    if (deploys.at === 0) {
      say("Waiting for the cluster to be listed…", "");
      return;
    }
    if (deploys.at !== last.deploys) showDeploys(deploys);
    if (caches.at !== last.caches) showCaches(caches);
    last = { deploys: deploys.at, caches: caches.at };
    const waiting = deploys.deploys.filter((deploy) => deploy.served === null).length;
    say(`${waiting} under way, ${deploys.deploys.length - waiting} done`, "");
  } catch (error) {
    say(`No answer: what is shown is old (${error.message})`, "lost");
  }
}

async function loop() {
  if (!document.hidden) await look();
  setTimeout(loop, EVERY);
}

legend();
loop();
document.addEventListener("visibilitychange", () => document.hidden || look());
