// Filters, links that can be shared, and what lies behind a cell. All text comes from records, so it
// is only ever set as text: nothing here parses HTML.
"use strict";
(() => {
  const FILTERS = ["kernel", "arch", "layer", "status", "evidence"];
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const dialog = byId("cell");
  const form = byId("filters");
  const table = document.querySelector(".matrix");
  let state = new URLSearchParams();

  function make(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
  }

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.flat(2).filter((child) => child !== null && child !== ""));
    return node;
  }

  const shortNumber = (value) =>
    typeof value !== "number" ? String(value) : Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));

  // ---- State: the address says what is shown -------------------------------------------------

  function read() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=")) return; // a link within the page
    state = new URLSearchParams(hash);
    for (const name of FILTERS) form.elements[name].value = state.get(name) ?? "";
    filter();
    show();
  }

  function address() {
    const hash = state.toString().replaceAll("%2F", "/");
    return hash ? `#${hash}` : location.pathname + location.search;
  }

  function open(key) {
    state.set("cell", key);
    history.pushState({ opened: true }, "", address());
    show();
  }

  function closed() {
    if (!state.has("cell")) return; // the way back closed it
    if (history.state?.opened) {
      history.back();
    } else {
      state.delete("cell");
      history.replaceState(null, "", address());
    }
  }

  // ---- Filters -------------------------------------------------------------------------------

  const groups = table ? [...table.tBodies].map(groupOf) : [];

  function groupOf(body) {
    const lines = [...body.rows].slice(1).map((row) => ({ row, arch: row.cells[0].textContent, cells: [...row.cells].slice(1) }));
    return { body, kernel: body.rows[0].textContent.toLowerCase(), lines };
  }

  function filter() {
    const [kernel, arch, layer, status, evidence] = FILTERS.map((name) => state.get(name) ?? "");
    const wanted = kernel.trim().toLowerCase();
    const column = data.layers.indexOf(layer);
    const matches = (cell, place) =>
      cell.firstChild !== null &&
      (!layer || place === column) &&
      (!status || cell.classList.contains(status)) &&
      (!evidence || cell.dataset.e === evidence);
    let cells = 0;
    let lines = 0;
    for (const group of groups) {
      let any = false;
      for (const line of group.lines) {
        let found = 0;
        if (group.kernel.includes(wanted) && (!arch || line.arch === arch)) {
          line.cells.forEach((cell, place) => {
            const fits = matches(cell, place);
            found += fits;
            if (fits === "off" in cell.dataset) cell.toggleAttribute("data-off", !fits);
          });
        }
        line.row.hidden = !found;
        any ||= found > 0;
        cells += found;
        lines += found > 0;
      }
      group.body.hidden = !any;
    }
    byId("shown").textContent = cells
      ? `${cells.toLocaleString("en")} cells of ${lines.toLocaleString("en")} lines are shown.`
      : "No cell fits these filters.";
    rove();
  }

  function filterChanged() {
    for (const name of FILTERS) {
      if (form.elements[name].value) state.set(name, form.elements[name].value);
      else state.delete(name);
    }
    history.replaceState(null, "", address());
    filter();
  }

  // ---- Keyboard: one stop for Tab, arrows within ---------------------------------------------

  let stop = null;

  const visible = (link) => link !== null && !("off" in link.parentNode.dataset) && !link.closest("[hidden]");

  function rove(link = null) {
    if (link === null && stop !== null && visible(stop)) return;
    const next = link ?? [...(table?.querySelectorAll("td:not([data-off]) > a") ?? [])].find(visible) ?? null;
    if (stop !== null) stop.tabIndex = -1;
    if (next !== null) next.tabIndex = 0;
    stop = next;
  }

  function moved(event) {
    const link = event.target.closest("td > a");
    if (link === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = NEXT[event.key]?.(link);
    if (!next) return;
    event.preventDefault();
    rove(next);
    next.focus();
  }

  const sideways = (step) => (link) => {
    for (let cell = link.parentNode; (cell = step(cell)); ) if (cell.tagName === "TD" && visible(cell.firstChild)) return cell.firstChild;
    return null;
  };

  const updown = (step) => (link) => {
    const rows = [...table.rows];
    for (let place = link.closest("tr").rowIndex + step; place > 0 && place < rows.length; place += step) {
      const cell = rows[place].cells[link.parentNode.cellIndex];
      if (cell?.tagName === "TD" && visible(cell.firstChild)) return cell.firstChild;
    }
    return null;
  };

  const inLine = (last) => (link) => {
    const links = [...link.closest("tr").querySelectorAll("td > a")].filter(visible);
    return links.at(last ? -1 : 0);
  };

  const NEXT = {
    ArrowLeft: sideways((cell) => cell.previousElementSibling),
    ArrowRight: sideways((cell) => cell.nextElementSibling),
    ArrowUp: updown(-1),
    ArrowDown: updown(1),
    Home: inLine(false),
    End: inLine(true),
  };

  // ---- A cell --------------------------------------------------------------------------------

  function show() {
    const key = state.get("cell");
    if (key === null) {
      if (dialog.open) dialog.close();
      return;
    }
    const link = linkOf(key);
    byId("cell-title").textContent = titleOf(key);
    byId("cell-body").replaceChildren(...bodyOf(key, link));
    if (link !== null) rove(link);
    if (!dialog.open) {
      link?.focus({ preventScroll: true }); // where the focus returns to
      dialog.showModal();
    }
    dialog.scrollTop = 0;
    byId("cell-title").focus();
  }

  function linkOf(key) {
    const [kernel, arch, layer] = partsOf(key);
    const line = groups.find((group) => group.kernel === kernel.toLowerCase())?.lines.find((each) => each.arch === arch);
    return line?.cells[data.layers.indexOf(layer)]?.querySelector("a") ?? null;
  }

  function partsOf(key) {
    const parts = key.split("/");
    return [parts.slice(0, -2).join("/"), parts.at(-2) ?? "", parts.at(-1) ?? ""];
  }

  function titleOf(key) {
    const [kernel, arch, layer] = partsOf(key);
    return `${kernel} on ${arch}, ${layer}`;
  }

  function bodyOf(key, link) {
    const cell = data.cells[key];
    if (cell === undefined && link === null) return [make("p", {}, "No such cell is in this report.")];
    const nodes = [];
    if (link !== null) {
      const status = link.parentNode.classList[0];
      nodes.push(make("p", {}, make("span", { class: `badge ${status}` }, link.lastChild.textContent), ` ${status.replaceAll("_", " ")}: ${data.meanings[status]}`));
    }
    if (cell === undefined) {
      nodes.push(make("p", { class: "note" }, "What is behind this cell was left out, to keep the page small. The records have it, and this makes it again:"));
      const [kernel, arch, layer] = partsOf(key);
      const names = { ARCH: arch, LAYER: layer, KERNEL: kernel };
      return [...nodes, command(data.command.replace(/ARCH|LAYER|KERNEL/g, (name) => quoted(names[name])))];
    }
    for (const found of cell.findings ?? []) nodes.push(finding(found));
    if (cell.checks?.length) nodes.push(make("h3", {}, "Checks"));
    for (const check of cell.checks ?? []) nodes.push(checkOf(check, check === cell.checks[0]));
    if (cell.left) nodes.push(make("p", { class: "note" }, cell.left));
    for (const drift of cell.drifts ?? []) nodes.push(driftOf(drift));
    return nodes;
  }

  // For a shell: a name from a record may hold anything.
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

  function finding(found) {
    const head = [found.status, found.hole, found.dtype].filter(Boolean).join(", ");
    const way = found.way ? make("p", { class: "note" }, found.way) : null;
    const reference = found.reference ? make("p", {}, `Reference: ${found.reference}`) : null;
    return make("div", { class: "cause" }, make("strong", {}, head), found.words ? make("pre", {}, found.words) : null, way, reference, found.command ? command(found.command) : null);
  }

  function command(text) {
    const button = make("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(button.previousSibling);
        button.textContent = "Selected";
      }
    });
    return make("div", { class: "command" }, make("pre", {}, text), button);
  }

  function checkOf(check, first) {
    const details = make("details", { class: "check" });
    details.open = first || check.outcome !== "passed";
    const facts = [check.outcome, check.evidence, check.cases === undefined ? "" : `${shortNumber(check.cases)} ${check.cases === 1 ? "case" : "cases"}`, check.worst === undefined ? "" : `worst ${shortNumber(check.worst)} of its budget`];
    details.append(make("summary", {}, make("strong", {}, `${data.glyphs[check.outcome] ?? "✗"} ${check.name}`), ` ${facts.filter(Boolean).join(", ")}`));
    if (check.message) details.append(make("pre", {}, check.message));
    details.append(make("h4", {}, "Run it again"), command(check.command));
    for (const map of check.maps ?? []) details.append(mapOf(map));
    if (check.picture) details.append(make("figure", {}, make("img", { src: check.picture, alt: `Errors of the failing case: ${check.maps?.[0]?.where ?? "see the message"}` })));
    if (check.bins) details.append(histogram(check.bins));
    if (check.figures) details.append(make("h4", {}, "Figures"), list(check.figures));
    details.append(make("h4", {}, "Environment"), list({ ...check.facts, ...data.environments[check.environment] }));
    return details;
  }

  function list(values) {
    return make("dl", {}, Object.entries(values).map(([name, value]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, shortNumber(value))]));
  }

  // ---- Pictures ------------------------------------------------------------------------------

  // How many cases have a worst error in each tenth of the budget; the last bar is what is beyond.
  function histogram(bins) {
    const [width, height, left, top] = [330, 120, 34, 14];
    const most = Math.max(...bins, 1);
    const step = (width - left) / bins.length;
    const bars = bins.map((count, place) => {
      const size = (count / most) * height;
      const over = place === bins.length - 1;
      const x = left + place * step;
      const words = count ? draw("text", { x: x + step / 2, y: top + height - size - 3, "text-anchor": "middle" }, shortNumber(count)) : null;
      return [draw("rect", { class: over ? "bar-of over" : "bar-of", x: x + 1, y: top + height - size, width: step - 2, height: size }), words].filter(Boolean);
    });
    const ticks = [0, 0.5, 1].map((value) => draw("text", { x: left + value * 10 * step, y: top + height + 14, "text-anchor": "middle" }, String(value)));
    const beyond = draw("text", { x: left + (bins.length - 0.5) * step, y: top + height + 14, "text-anchor": "middle" }, ">1");
    const limit = draw("line", { class: "limit", x1: left + 10 * step, x2: left + 10 * step, y1: 0, y2: top + height });
    const axis = draw("line", { class: "axis", x1: left, x2: width, y1: top + height, y2: top + height });
    const total = bins.reduce((sum, count) => sum + count, 0);
    const words = `Worst error of each of ${shortNumber(total)} cases, in units of the budget; ${bins.at(-1) || "none"} beyond it`;
    return make("figure", {}, draw("svg", { viewBox: `0 0 ${width} ${top + height + 20}`, width, role: "img", "aria-label": words }, bars.flat(), ticks, beyond, limit, axis), make("figcaption", {}, words));
  }

  const SHADES = { ".": "half", ":": "inside", X: "wrong-x" };
  const shade = (letter) => SHADES[letter] ?? (letter < "3" ? "wrong-1" : letter < "6" ? "wrong-2" : "wrong-3");

  // Tiles of an output, one rectangle for each stretch of the same letter.
  function mapOf(map) {
    const [rows, columns] = [map.lines.length, map.lines[0].length];
    const side = Math.max(6, Math.min(22, Math.floor(576 / columns)));
    const tiles = map.lines.flatMap((line, y) =>
      [...line.matchAll(/(.)\1*/g)].map((found) =>
        draw("rect", { class: shade(found[1]), x: found.index * side, y: y * side, width: found[0].length * side, height: side }),
      ),
    );
    const size = { width: columns * side, height: rows * side };
    const picture = draw("svg", { class: "map", viewBox: `-1 -1 ${size.width + 2} ${size.height + 2}`, width: size.width, role: "img", "aria-label": `Errors of ${map.output}: ${map.where}` }, tiles, draw("rect", { class: "frame", x: 0, y: 0, ...size }));
    const tile = map.tile.join(" x ");
    const caption = `${map.output} (${map.shape.join(" x ")}): ${map.where}. A tile is ${tile === "1 x 1" ? "one element" : `${tile} elements and shows the worst`}; grey is ${map.exact ? "equal" : "within the budget"}; orange is wrong up to 10 ${map.exact ? "apart" : "times the budget"}, red up to 300, purple or pink beyond; black or white is not finite.`;
    const text = make("details", {}, make("summary", {}, "As text"), make("p", { class: "note" }, "A dot is at most half of the budget, a colon within it; digits are wrong, each 3.2 times the one before; X is not finite."), make("pre", {}, map.lines.join("\n")));
    return make("figure", {}, make("h4", {}, "Where the errors are"), picture, make("figcaption", {}, caption), text);
  }

  // Two errors on a logarithmic scale: a ring before, a dot now, a dashed line at the limit.
  function movement(before, after) {
    const [width, height, low, high] = [220, 34, -3, 1];
    const x = (value) => 8 + ((Math.min(Math.max(Math.log10(Math.max(value, 1e-9)), low), high) - low) / (high - low)) * (width - 16);
    const words = `from ${shortNumber(before)} to ${shortNumber(after)} of the budget`;
    return draw(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": words },
      draw("line", { class: "axis", x1: 8, x2: width - 8, y1: 12, y2: 12 }),
      draw("line", { class: "limit", x1: x(1), x2: x(1), y1: 2, y2: 22 }),
      [0.001, 0.01, 0.1, 1, 10].map((value) => draw("text", { x: x(value), y: 33, "text-anchor": "middle" }, String(value))),
      draw("line", { class: "moved", x1: x(before), x2: x(after), y1: 12, y2: 12 }),
      draw("circle", { class: "before", cx: x(before), cy: 12, r: 4 }),
      draw("circle", { class: "after", cx: x(after), cy: 12, r: 4 }),
    );
  }

  // Each case's error before (across) and now (up), both logarithmic: above the diagonal it is worse.
  function scatter(points) {
    const [side, low, high] = [220, -3, 1];
    const at = (value) => ((Math.min(Math.max(Math.log10(Math.max(value, 1e-9)), low), high) - low) / (high - low)) * side;
    const worse = points.filter(([before, after]) => after > before).length;
    const words = `${points.length} cases: ${worse} have a larger error than before, the rest the same or a smaller one`;
    const place = ([before, after]) => draw("circle", { class: after > before ? "after" : "before", cx: 40 + at(before), cy: side - at(after) + 6, r: 3 });
    const ticks = [0.001, 0.01, 0.1, 1, 10].flatMap((value) => [
      draw("text", { x: 40 + at(value), y: side + 20, "text-anchor": "middle" }, String(value)),
      draw("text", { x: 36, y: side - at(value) + 10, "text-anchor": "end" }, String(value)),
    ]);
    return draw(
      "svg",
      { viewBox: `0 0 ${side + 60} ${side + 38}`, width: side + 60, role: "img", "aria-label": words },
      draw("rect", { class: "frame", x: 40, y: 6, width: side, height: side }),
      draw("line", { class: "limit", x1: 40, y1: side + 6, x2: 40 + side, y2: 6 }),
      points.map(place),
      ticks,
      draw("text", { x: 40 + side / 2, y: side + 35, "text-anchor": "middle" }, "before (up: now)"),
    );
  }

  function driftOf(drift) {
    const head = ["Drift", drift.check, drift.dtype, drift.measure?.replaceAll("_", " ")].filter(Boolean).join(", ");
    return make("figure", {}, make("h3", {}, `${drift.flagged ? "✗ " : ""}${head}`), drift.points ? scatter(drift.points) : null, make("figcaption", {}, drift.words));
  }

  // ---- Wiring --------------------------------------------------------------------------------

  function setUp() {
    form.hidden = false;
    byId("keys").hidden = table === null;
    table?.setAttribute("role", "grid");
    for (const link of table?.querySelectorAll("td > a") ?? []) link.tabIndex = -1;
    for (const place of document.querySelectorAll("td[data-before]")) place.append(movement(Number(place.dataset.before), Number(place.dataset.after)));
    let pending = 0;
    form.addEventListener("input", () => {
      clearTimeout(pending);
      pending = setTimeout(filterChanged, table && table.rows.length > 1000 ? 150 : 0);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(filterChanged));
    table?.addEventListener("keydown", moved);
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.('a[href^="#cell="]');
      if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(new URLSearchParams(link.hash.slice(1)).get("cell"));
    });
    byId("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", closed);
    addEventListener("popstate", read);
    setTheme();
    read();
  }

  function setTheme() {
    const theme = byId("theme");
    theme.parentNode.hidden = false;
    try {
      theme.value = localStorage.getItem("kernel-parity-theme") ?? "";
    } catch {
      // A page from a file may have no storage.
    }
    const apply = () => {
      document.documentElement.dataset.theme = theme.value;
      try {
        localStorage.setItem("kernel-parity-theme", theme.value);
      } catch {
        // As above.
      }
    };
    theme.addEventListener("change", apply);
    if (theme.value) apply();
  }

  setUp();
})();
