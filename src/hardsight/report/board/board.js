// The first page of the board: the table, its filters, its order, and the Pareto front. Names are only ever set as text.
"use strict";
(() => {
  const { encoders, setups, rankings, lead } = window.hardsight_board;
  const at = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined && text !== "") made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  rankings.forEach((one) => { one.at = new Map(one.encoders.map((encoder, place) => [encoder, place])); });
  const unit = (one) => setups[one.setup].unit;
  const text = (one, value) => value === null || value === undefined ? "–" : unit(one) === "%" ? (100 * value).toFixed(1) : value.toFixed(3);
  const name = (one) => `${setups[one.setup].name}: ${one.title}${twins(one) > 1 ? ` (${one.encoders.length} encoders, ${one.n} images)` : ""}`;
  const twins = (one) => rankings.filter((other) => other.setup === one.setup && other.title === one.title).length;
  const rank = (one, place) => one.best[place] === one.worst[place] ? `${one.best[place]}` : `${one.best[place]}–${one.worst[place]}`;
  const state = { ranking: lead, sort: "rank", down: false, picked: [], columns: new Set() };

  const filters = { task: (one) => one.task, data: (one) => one.data, threat: (one) => one.threat, protocol: (one) => one.protocol || "none" };
  const traits = { architecture: (one) => one.architecture, method: (one) => one.method };
  const fill = (id, values, all) => {
    const found = [...new Set(values)].sort(new Intl.Collator("en", { numeric: true }).compare);
    at(id).replaceChildren(make("option", all, { value: "" }), ...found.map((value) => make("option", value, { value: `=${value}` })));
    at(id).parentElement.hidden = found.length < 2;
  };
  for (const [id, of] of Object.entries(filters)) fill(id, rankings.map(of), "all");
  for (const [id, of] of Object.entries(traits)) fill(id, encoders.map(of), "all");
  const passes = (id, value) => !at(id).value || at(id).value === `=${value}`;
  const offered = () => rankings.map((_, n) => n).filter((n) => Object.entries(filters).every(([id, of]) => passes(id, of(rankings[n]))));

  const offer = () => { // the rankings that the filters leave
    const left = offered();
    at("ranking").replaceChildren(...left.map((n) => make("option", name(rankings[n]), { value: n })));
    if (!left.includes(state.ranking)) { state.ranking = left.length ? left[0] : -1; state.sort = "rank"; state.down = false; usual(); }
    at("ranking").value = state.ranking;
    at("columns").querySelector(".choices").replaceChildren(...left.filter((n) => n !== state.ranking).map((n) => {
      const label = make("label"), box = make("input", "", { type: "checkbox", value: n });
      box.checked = state.columns.has(n);
      box.addEventListener("change", () => { box.checked ? state.columns.add(n) : state.columns.delete(n); draw(); });
      label.append(box, make("span", name(rankings[n])));
      return label;
    }));
  };
  const usual = () => { // clean images of the same setup, and the worst case of the first ranking of each other task
    const one = rankings[state.ranking];
    state.columns = new Set();
    if (!one) return;
    const clean = rankings.findIndex((other) => other.setup === one.setup && other.kind === "clean" && other.encoders.length);
    if (clean >= 0 && clean !== state.ranking) state.columns.add(clean);
    const tasks = new Set([one.task]);
    rankings.forEach((other, n) => {
      if (!tasks.has(other.task) && other.kind === "worst" && passes("task", other.task)) { tasks.add(other.task); state.columns.add(n); }
    });
  };

  const shownEncoders = () => {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return encoders.map((_, n) => n).filter((n) => {
      const one = encoders[n], whole = `${one.name} ${one.spec} ${one.architecture} ${one.method}`.toLowerCase();
      return words.every((word) => whole.includes(word)) && Object.entries(traits).every(([id, of]) => passes(id, of(one)));
    });
  };
  const value = (n, encoder, what = "value") => { const place = rankings[n].at.get(encoder); return place === undefined ? null : rankings[n][what][place]; };
  const ordered = (shown, one) => {
    const flip = (a, b, down) => a === null ? 1 : b === null ? -1 : (a - b) * (down ? -1 : 1);
    const byName = (a, b) => a - b;
    const quality = one && setups[one.setup].better === "higher" ? -1 : 1;
    const byRank = (a, b) => value(state.ranking, a, "group") - value(state.ranking, b, "group") || quality * (value(state.ranking, a) - value(state.ranking, b)) || byName(a, b);
    if (state.sort === "name") return shown.sort((a, b) => (state.down ? -1 : 1) * byName(a, b));
    if (state.sort === "rank") return shown.sort((a, b) => (state.down ? -1 : 1) * byRank(a, b));
    const [n, what] = state.sort;
    return shown.sort((a, b) => flip(value(n, a, what), value(n, b, what), state.down) || byName(a, b));
  };

  const head = (key, title, note, css = "") => {
    const cell = make("th", "", { scope: "col", class: css }), button = make("button", title, { type: "button" });
    const same = JSON.stringify(key) === JSON.stringify(state.sort);
    cell.setAttribute("aria-sort", same ? (state.down ? "descending" : "ascending") : "none");
    button.addEventListener("click", () => {
      state.down = same ? !state.down : Array.isArray(key) && setups[rankings[key[0]].setup].better === "higher";
      state.sort = key;
      draw();
      [...at("table").querySelectorAll("thead button")].find((other) => other.textContent === title)?.focus();
    });
    cell.append(button);
    if (note) cell.append(make("small", note));
    return cell;
  };
  const figure = (n, encoder, main) => {
    const one = rankings[n], place = one.at.get(encoder), cell = make("td", "", main ? { class: "main" } : {});
    if (place === undefined) { cell.append(make("span", "–", { class: "none" })); return cell; }
    cell.append(make("b", text(one, one.value[place])), make("small", `${text(one, one.low[place])}–${text(one, one.high[place])}`));
    if (!main) cell.append(make("small", `rank ${rank(one, place)}`));
    return cell;
  };

  const draw = () => {
    const one = rankings[state.ranking], table = at("table");
    const extra = [...state.columns].filter((n) => n !== state.ranking && offered().includes(n)).sort((a, b) => a - b);
    const inside = one ? ordered(shownEncoders().filter((n) => one.at.has(n)), one) : [];
    const line = make("tr");
    if (one) {
      const label = `${setups[one.setup].label}${unit(one) ? ` (${unit(one)})` : ""} ${setups[one.setup].better === "higher" ? "↑" : "↓"}`;
      line.append(make("th", "", { class: "pick", scope: "col", "aria-label": "picked for comparison" }), head("name", "encoder", "", "name"), head("rank", "rank", `of ${one.encoders.length}`),
        head([state.ranking, "value"], one.title, label), head([state.ranking, "tail"], "worst tenth", "of images"),
        ...extra.map((n) => head([n, "value"], rankings[n].title, setups[rankings[n].setup].name)));
    }
    const body = make("tbody");
    inside.forEach((n, nth) => {
      const row = make("tr"), place = one.at.get(n), pick = make("td", "", { class: "pick" }), box = make("input", "", { type: "checkbox", "aria-label": `compare ${encoders[n].name}` });
      box.checked = state.picked.includes(n);
      box.addEventListener("change", () => { state.picked = box.checked ? [...state.picked, n].slice(-2) : state.picked.filter((other) => other !== n); draw(); at("table").querySelector(`[data-encoder="${n}"] input`)?.focus(); });
      row.dataset.encoder = n;
      pick.append(box);
      const title = make("th", "", { scope: "row", class: "name" });
      title.append(make("a", encoders[n].name, { href: `encoder/${encoders[n].file}` }), make("small", [encoders[n].architecture, encoders[n].parameters].filter(Boolean).join(" · ")));
      row.append(pick, title, make("td", rank(one, place)), figure(state.ranking, n, true), make("td", text(one, one.tail[place])), ...extra.map((other) => figure(other, n, false)));
      const next = inside[nth + 1];
      if (state.sort === "rank" && next !== undefined && value(state.ranking, next, "group") !== one.group[place]) row.classList.add("cut");
      body.append(row);
    });
    const top = make("thead");
    top.append(line);
    table.replaceChildren(top, body);
    const bar = at("compare");
    bar.hidden = !state.picked.length;
    if (state.picked.length) {
      const [a, b] = state.picked;
      bar.querySelector("span").textContent = b === undefined ? `Picked: ${encoders[a].name}. Pick a second one.` : `Picked: ${encoders[a].name} and ${encoders[b].name}.`;
      bar.querySelector("a").hidden = b === undefined;
      bar.querySelector("a").href = `pair.html#${a},${b}`;
    }
    at("said").textContent = one ? `${inside.length} of ${one.encoders.length} encoders in this ranking, ${one.n} images${setups[one.setup].skipped && one.n < Number(Object.fromEntries(setups[one.setup].settings)["count"]) ? ` of ${Object.fromEntries(setups[one.setup].settings)["count"]} asked` : ""}.` : "No ranking passes these filters.";
    at("note").textContent = one ? `${one.under === "clean" ? "" : `Attack: ${one.under}. `}${one.protocol ? `Protocol ${one.protocol}${one.departures ? `, departs from it: ${one.departures}` : ""}. ` : ""}95% intervals. A heavy line: every encoder above it differs from every one below.` : "";
    front(one, new Set(inside));
    apart(one);
  };

  const apart = (one) => { // who is not in this ranking, and why
    const list = at("unranked").querySelector("ul"), reasons = new Map();
    if (one) encoders.forEach((encoder, n) => {
      if (one.at.has(n)) return;
      const mine = rankings.filter((other) => other.at.has(n));
      const alike = mine.filter((other) => other.task === one.task && other.data === one.data);
      const same = alike.find((other) => other.title === one.title);
      let why;
      if (same && same.setup !== one.setup) why = `measured otherwise: ${unlike(same, one).join("; ")}`;
      else if (same && same.under !== one.under) why = `under other attacks: ${same.under}`;
      else if (same && (same.protocol !== one.protocol || same.departures !== one.departures)) why = `protocol ${same.protocol || "none"}${same.departures ? ` (departs: ${same.departures})` : ""}, not ${one.protocol || "none"}${one.departures ? ` (departs: ${one.departures})` : ""}`;
      else if (same) why = `other images, or other counts of them: ${same.n}, here ${one.n}`;
      else if (alike.some((other) => other.setup === one.setup)) why = `no ${one.title}`;
      else why = `not measured on ${setups[one.setup].name}`;
      reasons.set(why, [...(reasons.get(why) || []), encoder.name]);
    });
    at("unranked").hidden = !reasons.size;
    list.replaceChildren(...[...reasons].map(([why, names]) => make("li", `${names.slice(0, 12).join(", ")}${names.length > 12 ? ` and ${names.length - 12} more` : ""}: ${why}`)));
  };
  const unlike = (one, other) => {
    const there = new Map(setups[other.setup].settings), here = new Map(setups[one.setup].settings);
    return [...new Set([...here.keys(), ...there.keys()])].filter((key) => here.get(key) !== there.get(key)).map((key) => `${key} ${here.get(key) || "none"}, not ${there.get(key) || "none"}`);
  };

  const svg = (tag, attributes = {}, content = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (content !== "") made.textContent = content;
    return made;
  };
  const ticks = (low, high) => {
    const raw = (high - low || 1) / 5, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw * (1 - 1e-9));
    const found = [];
    for (let k = Math.floor(low / step + 1e-9); k <= Math.ceil(high / step - 1e-9); k++) found.push(k * step);
    return found;
  };
  const front = (one, visible) => {
    const place = at("pareto"), section = place.parentElement;
    const clean = one && rankings.find((other) => other.setup === one.setup && other.kind === "clean" && one.encoders.some((n) => other.at.has(n)));
    const worst = one && (one.kind === "clean" ? rankings.filter((other) => other.setup === one.setup && other.kind === "worst").pop() : one);
    section.hidden = !clean || !worst || worst.kind === "clean";
    if (section.hidden) return;
    const higher = setups[one.setup].better === "higher", scale = unit(one) === "%" ? 100 : 1;
    const points = worst.encoders.filter((n) => clean.at.has(n) && visible.has(n)).map((n) => ({ n, x: scale * clean.value[clean.at.get(n)], y: scale * worst.value[worst.at.get(n)] })).filter((p) => p.x !== null && p.y !== null);
    if (!points.length) { section.hidden = true; return; }
    const beats = (a, b) => (higher ? a.x >= b.x && a.y >= b.y : a.x <= b.x && a.y <= b.y) && (a.x !== b.x || a.y !== b.y);
    points.forEach((p) => { p.on = !points.some((other) => beats(other, p)); });
    const span = (key) => ticks(Math.min(...points.map((p) => p[key])), Math.max(...points.map((p) => p[key])));
    const xs = span("x"), ys = span("y"), wide = Math.max(330, Math.min(620, place.parentElement.clientWidth)), tall = 400, left = 52, right = 16, top = 26, bottom = 46;
    const px = (x) => left + (wide - left - right) * (x - xs[0]) / (xs[xs.length - 1] - xs[0] || 1), py = (y) => tall - bottom - (tall - top - bottom) * (y - ys[0]) / (ys[ys.length - 1] - ys[0] || 1);
    const digits = (list) => Math.max(0, Math.min(4, Math.ceil(-Math.log10((list[1] - list[0]) || 1) - 1e-9)));
    const chart = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "chart", role: "group", "aria-label": `${worst.title} over clean ${setups[one.setup].label}` });
    for (const y of ys) chart.append(svg("line", { x1: left, x2: wide - right, y1: py(y), y2: py(y), class: "rule" }), svg("text", { x: left - 7, y: py(y) + 4, "text-anchor": "end" }, y.toFixed(digits(ys))));
    for (const x of xs) chart.append(svg("line", { x1: px(x), x2: px(x), y1: tall - bottom, y2: tall - bottom + 5, class: "axis" }), svg("text", { x: px(x), y: tall - bottom + 19, "text-anchor": "middle" }, x.toFixed(digits(xs))));
    const label = `${setups[one.setup].label}${unit(one) ? ` (${unit(one)})` : ""}`;
    chart.append(svg("text", { x: (left + wide - right) / 2, y: tall - 8, "text-anchor": "middle", class: "quiet" }, `clean, ${label}`), svg("text", { x: 4, y: 13, class: "quiet" }, `${worst.title}, ${label}`));
    const best = points.filter((p) => p.on).sort((a, b) => a.x - b.x || a.y - b.y);
    chart.append(svg("path", { class: "front", d: `M${best.map((p) => `${px(p.x).toFixed(1)} ${py(p.y).toFixed(1)}`).join("L")}` }));
    const taken = [];
    for (const p of [...points].sort((a, b) => a.on - b.on)) {
      const link = svg("a", { href: `encoder/${encoders[p.n].file}`, "aria-label": `${encoders[p.n].name}: clean ${p.x.toFixed(1)}, ${worst.title} ${p.y.toFixed(1)}` });
      if (!p.on) link.setAttribute("tabindex", "-1");
      const dot = svg("circle", { cx: px(p.x).toFixed(1), cy: py(p.y).toFixed(1), r: p.on ? 5 : 4, class: p.on ? "dot on" : "dot" });
      dot.append(svg("title", {}, `${encoders[p.n].name}: clean ${text(one, p.x / scale)}, ${text(one, p.y / scale)}`));
      link.append(dot);
      chart.append(link);
      const label = encoders[p.n].name.length > 26 ? `${encoders[p.n].name.slice(0, 25)}…` : encoders[p.n].name, half = label.length * 3.3;
      const box = { x: Math.min(Math.max(px(p.x), left + half), wide - right - half), y: py(p.y) - 9 };
      if (p.on && taken.length < wide / 50 && !taken.some((other) => Math.abs(other.x - box.x) < other.half + half + 6 && Math.abs(other.y - box.y) < 14)) {
        taken.push({ ...box, half });
        chart.append(svg("text", { x: box.x, y: box.y, "text-anchor": "middle" }, label));
      }
    }
    place.replaceChildren(chart);
  };

  at("summary").textContent = `${encoders.length} encoders, ${new Set(rankings.map((one) => one.task)).size} tasks, ${setups.length} setups (task, data, count, head, seed), ${rankings.length} rankings.`;
  at("search").addEventListener("input", draw);
  at("ranking").addEventListener("change", () => { state.ranking = Number(at("ranking").value); state.sort = "rank"; state.down = false; usual(); offer(); draw(); });
  for (const id of Object.keys(filters)) at(id).addEventListener("change", () => { offer(); draw(); });
  for (const id of Object.keys(traits)) at(id).addEventListener("change", draw);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("reset").addEventListener("click", () => {
    for (const id of ["search", ...Object.keys(filters), ...Object.keys(traits)]) at(id).value = "";
    Object.assign(state, { ranking: lead, sort: "rank", down: false, picked: [] });
    usual(); offer(); draw();
  });
  usual(); offer(); draw();
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
