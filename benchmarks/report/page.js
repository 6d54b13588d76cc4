"use strict";
// Texts of records are only ever set with textContent.
(() => {
  const cells = JSON.parse(document.getElementById("cells").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // What works only with a script is inert and hidden until now.
  document.documentElement.classList.add("scripted");
  all("button[data-sort]").forEach((button) => { button.disabled = false; });

  // ------------------------------------------------------------------ theme
  const themes = ["system", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  function setTheme(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    one("#theme").textContent = `theme: ${theme}`;
    try { localStorage.setItem("theme", theme); } catch { /* a page opened from a file may not remember */ }
  }
  let theme = themes.includes(remembered()) ? remembered() : "system";
  setTheme(theme);
  one("#theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
  });

  // ---------------------------------------------------------------- sorting
  const number = (text) => (text === "" || text === undefined ? NaN : Number(text));
  function sort(heading, direction) {
    const table = heading.closest("table"), body = table.tBodies[0], kind = one("button", heading).dataset.sort;
    const place = [...heading.parentElement.cells].indexOf(heading);
    all("th[aria-sort]", table).forEach((th) => th.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.cells[place].dataset.value;
    const compare = kind === "text"
      ? (a, b) => sign * (value(a) ?? "").localeCompare(value(b) ?? "", "en", { numeric: true })
      : (a, b) => {
          const [x, y] = [number(value(a)), number(value(b))];
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // what is missing comes last
          return sign * (x - y);
        };
    body.append(...[...body.rows].sort(compare));
  }
  function sortAgain(button) { // the other way round, where it is sorted by this heading already
    const heading = button.closest("th");
    const [first, other] = button.dataset.sort === "text" ? ["ascending", "descending"] : ["descending", "ascending"];
    sort(heading, heading.getAttribute("aria-sort") === first ? other : first);
    remember();
  }
  all("button[data-sort]").forEach((button) => button.addEventListener("click", () => sortAgain(button)));

  // -------------------------------------------------------------- filtering
  const off = new Set();
  function filter() {
    all("[data-chip]").forEach((chip) => chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.chip))));
    const words = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (element) => words.every((word) => element.dataset.filter.toLowerCase().includes(word));
    const hide = (element, hidden) => element.toggleAttribute("hidden", hidden); // drawings have no property for it
    const isHidden = (element) => element.hasAttribute("hidden");
    all("[data-filter]").forEach((element) => {
      hide(element, !wanted(element) || (element.dataset.task !== undefined && off.has(element.dataset.task)));
    });
    all("[data-task]:not([data-filter])").forEach((element) => hide(element, off.has(element.dataset.task)));
    all(".twins").forEach((group) => hide(group, [...group.children].every(isHidden)));
    all("section.pictures").forEach((section) => {
      hide(section, off.has(section.dataset.task) || all(".twins", section).every(isHidden));
    });
    all("#registers figure").forEach((figure) => {
      const dots = all("a.dot", figure).filter((dot) => !isHidden(dot));
      const series = new Set(dots.map((dot) => dot.dataset.series));
      hide(figure, off.has(figure.dataset.task) || !dots.length);
      all("[data-series].legend", figure).forEach((key) => hide(key, !series.has(key.dataset.series)));
    });
    const rows = all("#overview tbody tr"), left = rows.filter((row) => !row.hidden).length;
    one("#count").textContent = left === rows.length ? "" : `${left} of ${rows.length} rows`;
  }
  one("#filter").addEventListener("input", () => { filter(); remember(); });
  all("[data-chip]").forEach((chip) => chip.addEventListener("click", () => {
    const task = chip.dataset.chip;
    if (off.has(task)) off.delete(task); else off.add(task);
    filter();
    remember();
  }));

  // ------------------------------------------------------------ the address
  // ?filter=reg4+deit3&without=lost_voc07&overview=imagenet_knn+top1:descending gives the same view again.
  const sorted = () => all("table.sortable").map((table) => [table, one("th[aria-sort$=ending]", table)]);
  function remember() {
    const query = new URLSearchParams(), words = one("#filter").value.trim();
    if (words) query.set("filter", words);
    for (const task of [...off].sort()) query.append("without", task);
    for (const [table, heading] of sorted()) {
      if (heading) query.set(table.id, `${heading.dataset.key}:${heading.getAttribute("aria-sort")}`);
    }
    const text = query.toString();
    history.replaceState(null, "", location.pathname + (text && `?${text}`) + location.hash);
  }
  function recall() {
    const query = new URLSearchParams(location.search);
    one("#filter").value = query.get("filter") ?? "";
    const tasks = new Set(all("[data-chip]").map((chip) => chip.dataset.chip));
    query.getAll("without").filter((task) => tasks.has(task)).forEach((task) => off.add(task));
    for (const [table] of sorted()) {
      const [, key, direction] = /^(.*):(ascending|descending)$/s.exec(query.get(table.id) ?? "") ?? [];
      const heading = all("th[data-key]", table).find((th) => th.dataset.key === key);
      if (heading) sort(heading, direction);
    }
    filter();
  }
  recall();

  // ---------------------------------------------------------------- copying
  let fading;
  function say(text) {
    const said = one("#said"), open = all("dialog[open]").at(-1);
    (open ?? document.body).append(said);
    said.textContent = text;
    said.classList.add("shown");
    clearTimeout(fading);
    fading = setTimeout(() => said.classList.remove("shown"), 1600);
  }
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a page opened from a file may not use the clipboard's own interface
      const area = make("textarea", { readonly: "" });
      area.value = text;
      (all("dialog[open]").at(-1) ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say("copied");
  }

  // ---------------------------------------------------------------- records
  const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? "");
  const label = (key) => key.replaceAll("_", " ");
  function list(values) {
    const terms = make("dl");
    for (const [key, value] of Object.entries(values ?? {})) {
      const text = plain(value), term = make("dt"), shown = make("dd");
      term.textContent = label(key);
      if (text.length > 300) {
        const more = make("details"), summary = make("summary"), code = make("pre");
        summary.textContent = `${text.slice(0, 60)} …`;
        code.textContent = typeof value === "string" ? value : JSON.stringify(value, null, 1);
        more.append(summary, code);
        shown.append(more);
      } else shown.textContent = text;
      terms.append(term, shown);
    }
    return terms;
  }
  function part(title, ...content) {
    const heading = make("h3");
    heading.textContent = title;
    return [heading, ...content];
  }
  function closer(dialog) {
    const button = make("button", { type: "button", class: "close", title: "close", "aria-label": "close" }, "✕");
    button.addEventListener("click", () => dialog.close());
    return button;
  }
  function commandLine(text) {
    const code = make("pre"), button = make("button", { type: "button", class: "copy" }, "copy");
    code.textContent = text;
    button.dataset.copy = text;
    return make("div", { class: "command" }, code, button);
  }
  function metrics({ metrics: found, intervals }) {
    const shown = Object.entries(found).map(([key, value]) => {
      const ends = intervals[key];
      return [key, Array.isArray(ends) ? `${value}   (95 %: ${ends.join(" to ")})` : String(value)];
    });
    return Object.fromEntries(shown);
  }
  function origin(cell) {
    const { versions, dirty, ...rest } = cell.record.provenance;
    const words = versions && typeof versions === "object"
      ? Object.entries(versions).map(([name, version]) => `${name} ${plain(version)}`).join(", ") : plain(versions);
    const code = dirty ? "changed since that commit" : "as in that commit";
    return { ...rest, code, versions: words, record: cell.file, log: cell.log };
  }
  function show(places) {
    const dialog = one("#record"), cell = cells[places[0]], record = cell.record;
    const title = make("h2", { id: "record-title" });
    title.textContent = `${record.model} · ${record.task} · seed ${record.seed}`;
    const seeds = make("div", { class: "seeds" });
    for (const place of places.length > 1 ? [...places].sort((a, b) => a - b) : []) {
      const button = make("button", { type: "button", class: "chip", "aria-pressed": String(place === places[0]) });
      button.textContent = `seed ${cells[place].record.seed}`;
      button.addEventListener("click", () => show([place, ...places.filter((other) => other !== place)]));
      seeds.append(button);
    }
    const held = { data: record.data, "data root": record.data_root || "as configs/data says", images: record.images, weights: record.weights };
    const content = make("div", {}, title, seeds,
      ...part("Metrics", list(metrics(record))),
      ...part("Again", commandLine(cell.command)),
      ...part("Where it comes from", list(origin(cell))),
      ...part("Protocol", list(record.protocol)),
      ...part("Settings", list(record.settings)),
      ...part("Data and weights", list({ ...held, ...record.layout })),
      ...part("Backbone", list(record.backbone)));
    if (Object.keys(record.floors).length) content.append(...part("Floors", list(record.floors)));
    if (Object.keys(record.per_class).length) content.append(...part("By class", list({ scores: record.per_class })));
    dialog.replaceChildren(closer(dialog), content);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", `#record=${encodeURIComponent(cell.key)}`);
  }
  one("#record").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));

  function enlarge(link) {
    const dialog = one("#picture"), small = one("img", link), large = make("img", { src: link.href, alt: small.alt });
    large.addEventListener("error", () => { // the page was sent without the files beside it
      if (large.src !== small.src) large.src = small.src;
    });
    const zoom = make("button", { type: "button", class: "zoom", title: "as large as the window, or as it is" }, large);
    zoom.addEventListener("click", () => zoom.classList.toggle("full"));
    dialog.replaceChildren(closer(dialog), zoom);
    dialog.showModal();
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-cells], [data-copy], .enlarge, dialog");
    if (!target) return;
    if (target.dataset.copy !== undefined) copy(target.dataset.copy);
    else if (target.matches("dialog")) {
      if (event.target === target) target.close(); // beside the content
    } else if (!event.ctrlKey && !event.metaKey && !event.shiftKey) { // these open a link elsewhere
      event.preventDefault();
      if (target.dataset.cells !== undefined) show(target.dataset.cells.split(" ").map(Number));
      else enlarge(target);
    }
  });

  function follow() {
    if (!location.hash.startsWith("#record=")) return;
    let key = "";
    try { key = decodeURIComponent(location.hash.slice("#record=".length)); } catch { return; }
    const place = cells.findIndex((cell) => cell.key === key);
    if (place >= 0) show([place]);
  }
  addEventListener("hashchange", follow);
  follow();
})();
