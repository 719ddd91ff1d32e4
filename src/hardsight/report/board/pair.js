// Any two encoders: their outcomes are loaded by script tags, so that it works from a folder. Names are only ever set as text.
"use strict";
(() => {
  const { encoders, setups, rankings } = window.hardsight_board, images = window.hardsight_images;
  const at = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const loading = new Map();
  const load = (n) => {
    if (!loading.has(n)) loading.set(n, new Promise((done, failed) => {
      const script = make("script", undefined, { src: `data/${n}.js` });
      script.onload = () => done(window[`hardsight_outcomes_${n}`]);
      script.onerror = () => failed(new Error(`data/${n}.js is missing`));
      document.head.append(script);
    }));
    return loading.get(n);
  };
  const bytes = (packed) => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const bit = (list, n) => (list[n >> 3] >> (7 - (n & 7))) & 1;
  const Z = 1.959963984540054;
  const wilson = (hits, n) => {
    const share = hits / n, middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n), half = Z * Math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n);
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  };
  const newcombe = (both, a, b, neither) => { // metrics/paired.py, the same names
    const n = both + a + b + neither, pb = (both + b) / n, pa = (both + a) / n, [lb, hb] = wilson(both + b, n), [la, ha] = wilson(both + a, n);
    let across = both * neither - a * b;
    if (across > 0) across = Math.max(across - n / 2, 0);
    const under = Math.sqrt((both + a) * (both + b) * (a + neither) * (b + neither)), phi = under ? across / under : 0;
    const width = (one, other) => Math.sqrt(Math.max(one * one - 2 * phi * one * other + other * other, 0));
    return [pb - pa - width(pb - lb, ha - pa), pb - pa + width(hb - pb, pa - la)];
  };
  const mcnemar = (a, b) => {
    const n = a + b, least = Math.min(a, b);
    let log = -n * Math.LN2, sum = 0;
    for (let k = 0; k <= least; k++) { sum += Math.exp(log); log += Math.log(n - k) - Math.log(k + 1); }
    return Math.min(1, 2 * sum);
  };
  const erfc = (z) => { // Numerical approximation with a relative error below 1.2e-7 (Press et al., Numerical Recipes, erfcc)
    const t = 1 / (1 + z / 2);
    return t * Math.exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  };
  const compared = (n, mine, theirs, a, b) => {
    const one = rankings[n], i = one.encoders.indexOf(a), j = one.encoders.indexOf(b), value = one.value[j] - one.value[i];
    const found = { n, value, a: one.value[i], b: one.value[j], differ: bit(bytes(mine.differ), j) === 1 };
    if (mine.right) {
      const first = bytes(mine.right), second = bytes(theirs.right);
      let both = 0;
      found.onlyA = []; found.onlyB = [];
      for (let k = 0; k < one.n; k++) { const x = bit(first, k), y = bit(second, k); if (x && y) both++; else if (x) found.onlyA.push(k); else if (y) found.onlyB.push(k); }
      [found.low, found.high] = newcombe(both, found.onlyA.length, found.onlyB.length, one.n - both - found.onlyA.length - found.onlyB.length);
      found.p = mcnemar(found.onlyA.length, found.onlyB.length);
    } else {
      const raw = bytes(mine.errors), error = new DataView(raw.buffer).getFloat32(4 * j, true), first = bytes(mine.error), second = bytes(theirs.error);
      [found.low, found.high] = error > 0 ? [value - Z * error, value + Z * error] : [null, null];
      found.p = error > 0 ? erfc(Math.abs(value) / error / Math.SQRT2) : 1;
      found.gaps = Array.from({ length: one.n }, (_, k) => [k, (second[k] - first[k]) / 255]).filter(([, gap]) => Math.abs(gap) >= 1 / 255).sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]));
    }
    return found;
  };
  const shown = (n, value, sign = false) => {
    if (value === null || !Number.isFinite(value)) return "–";
    const text = setups[rankings[n].setup].unit === "%" ? (100 * value).toFixed(1) : value.toFixed(3);
    return sign && value > 0 ? `+${text}` : text;
  };
  const small = (p) => p < 0.0001 ? "< 0.0001" : p.toFixed(4);
  const name = (n) => `${setups[rankings[n].setup].name}: ${rankings[n].title}`;
  let found = [];
  const draw = async () => {
    const [a, b] = [Number(at("a").value), Number(at("b").value)];
    location.replace(`#${a},${b}`);
    at("title").textContent = `${encoders[a].name} against ${encoders[b].name}`;
    document.title = at("title").textContent;
    let mine, theirs;
    try { [mine, theirs] = await Promise.all([load(a), load(b)]); } catch (error) { at("said").textContent = error.message; return; }
    if (Number(at("a").value) !== a || Number(at("b").value) !== b) return;
    found = a === b ? [] : Object.keys(mine).filter((n) => n in theirs).map((n) => compared(Number(n), mine[n], theirs[n], a, b));
    const better = (one) => (setups[rankings[one.n].setup].better === "higher") === (one.value > 0);
    const apart = found.filter((one) => one.differ), ahead = apart.filter(better).length;
    at("said").textContent = a === b ? "Choose two encoders." : found.length ? `In ${found.length} shared rankings, B is significantly better in ${ahead}, A in ${apart.length - ahead}; in ${found.length - apart.length} they do not differ.` : "They share no ranking: nothing can be compared.";
    const head = make("tr"), body = make("tbody"), top = make("thead");
    for (const title of ["ranking", "A", "B", "B − A", "p", "images", "differ"]) head.append(make("th", title, { scope: "col", class: title === "ranking" ? "first" : "" }));
    for (const one of found) {
      const row = make("tr"), gap = make("td");
      gap.append(make("b", shown(one.n, one.value, true)), make("small", `${shown(one.n, one.low, true)} to ${shown(one.n, one.high, true)}`));
      const title = make("th", name(one.n), { scope: "row" }), setup = setups[rankings[one.n].setup];
      title.append(make("small", `${setup.label}${setup.unit ? ` (${setup.unit})` : ""}, ${setup.better} is better`));
      row.append(title, make("td", shown(one.n, one.a)), make("td", shown(one.n, one.b)), gap, make("td", small(one.p)), make("td", rankings[one.n].n), make("td", one.differ ? (better(one) ? "B better" : "A better") : "no"));
      body.append(row);
    }
    top.append(head);
    at("table").replaceChildren(top, body);
    at("ranking").replaceChildren(...found.map((one, k) => make("option", name(one.n), { value: k })));
    disagree();
    const only = (own, other) => Object.keys(own).filter((n) => !(n in other)).map(Number);
    const lines = [...only(mine, theirs).map((n) => `only A: ${name(n)}`), ...only(theirs, mine).map((n) => `only B: ${name(n)}`)];
    at("unlike").hidden = !lines.length || a === b;
    at("unlike").querySelector("ul").replaceChildren(...lines.map((line) => make("li", line)));
    document.documentElement.dataset.ready = `${a},${b}`;
  };
  const disagree = () => {
    const one = found[Number(at("ranking").value)], place = at("disagree");
    at("images").parentElement.hidden = !one;
    if (!one) return;
    const ids = images.lists[images.of[one.n]], list = (title, names) => {
      const part = make("details"), summary = make("summary", `${title}: ${names.length} images`);
      part.open = names.length > 0 && names.length <= 60;
      part.append(summary, make("p", names.slice(0, 200).join(", ") + (names.length > 200 ? `, and ${names.length - 200} more` : ""), { class: "small" }));
      return part;
    };
    if (one.onlyA) { place.replaceChildren(list("Only A is right", one.onlyA.map((k) => ids[k])), list("Only B is right", one.onlyB.map((k) => ids[k]))); return; }
    const table = make("table"), head = make("tr"), body = make("tbody"), top = make("thead");
    for (const title of ["image", "error of B minus A"]) head.append(make("th", title, { scope: "col" }));
    for (const [k, gap] of one.gaps.slice(0, 20)) { const row = make("tr"); row.append(make("th", ids[k], { scope: "row" }), make("td", (gap > 0 ? "+" : "") + gap.toFixed(2))); body.append(row); }
    top.append(head); table.append(top, body);
    place.replaceChildren(make("p", `The task error, in 0 to 1, differs on ${one.gaps.length} images; the largest ${Math.min(20, one.gaps.length)}:`, { class: "small" }), table);
  };
  const options = () => encoders.map((one, n) => make("option", one.name, { value: n }));
  at("a").append(...options());
  at("b").append(...options());
  const read = () => {
    const [a, b] = location.hash.slice(1).split(",").map((part) => part === "" ? NaN : Number(part)), valid = (n) => Number.isInteger(n) && n >= 0 && n < encoders.length;
    at("a").value = valid(a) ? a : 0;
    at("b").value = valid(b) ? b : encoders.length > 1 && (!valid(a) || a === 0) ? 1 : 0;
    draw();
  };
  for (const id of ["a", "b"]) at(id).addEventListener("change", draw);
  at("ranking").addEventListener("change", disagree);
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  window.addEventListener("hashchange", () => { if (location.hash.slice(1) !== `${at("a").value},${at("b").value}`) read(); });
  read();
})();
