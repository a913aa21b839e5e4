// The certificate: the table for a chosen reference and backend, and reading the plots.
"use strict";
(() => {
  const block = document.getElementById("data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const table = document.getElementById("layer-table");
  const rows = [...table.tBodies[0].rows];
  const shapes = rows.map((row) => row.cells[4].textContent);

  // For each report, the row → its four numbers, shape and reason.
  const number = (text) => (text === "∞" || text === "NaN" ? Infinity : Number(text));
  const reports = data.reports.map((report) => {
    const columns = report.columns.map((column) => column.split(" "));
    const own = report.shapes?.split(" ");
    const at = report.rows ?? rows.keys();
    const found = new Map();
    let i = 0;
    for (const row of at) {
      const reason = report.reasons[row] ?? "";
      const numbers = columns.map((column) => column[i]);
      found.set(row, { numbers, shape: own?.[i], reason, badness: [reason ? 1 : 0, number(numbers[3])] });
      i += 1;
    }
    return { backend: report.backend, reference: report.reference, found };
  });
  const name = (report) => data.backends[report.backend]
    + (data.references.length > 1 ? `, ${data.references[report.reference]}` : "");

  const cell = (element, reason) => {
    element.className = reason ? "no" : "yes";
    element.textContent = reason ? "✗ " : "✓";
    if (reason) {
      const span = document.createElement("span");
      span.textContent = reason;
      element.append(span);
    }
  };

  const reference = document.getElementById("table-reference");
  const backend = document.getElementById("table-backend");
  const original = rows.map((row) => [row.className, [...row.cells].slice(4).map((one) => one.cloneNode(true))]);
  const fill = () => {
    const chosen = reports.filter((report) =>
      (reference.value === "" || report.reference === Number(reference.value))
      && (backend.value === "" || report.backend === Number(backend.value)));
    rows.forEach((row, i) => {
      const cells = [...row.cells].slice(4);
      if (chosen.length === reports.length) {
        // As it was written: rounded numbers may not tell which of two is the worse.
        row.className = original[i][0];
        cells.forEach((one, k) => one.replaceWith(original[i][1][k].cloneNode(true)));
        return;
      }
      let worst = null;
      for (const report of chosen) {
        const found = report.found.get(i);
        if (!found) continue;
        const [failed, share] = found.badness;
        if (!worst || failed > worst.found.badness[0] || (failed === worst.found.badness[0] && share > worst.found.badness[1])) {
          worst = { report, found };
        }
      }
      row.classList.toggle("bad", Boolean(worst?.found.reason));
      cells[0].textContent = worst?.found.shape ?? shapes[i];
      for (let k = 0; k < 4; k += 1) cells[1 + k].textContent = worst ? worst.found.numbers[k] : "";
      if (worst) {
        cell(cells[6], worst.found.reason);
      } else {
        cells[6].className = "";
        cells[6].textContent = "not compared";
      }
      cells[5].textContent = worst ? name(worst.report) : "";
    });
    table.dispatchEvent(new Event("rows-changed"));
  };
  reference?.addEventListener("change", fill);
  backend?.addEventListener("change", fill);

  // Plots

  const figures = [...document.querySelectorAll("figure[data-reference]")];
  const readout = document.getElementById("readout");
  if (!figures.length) return;
  const picker = document.getElementById("plot-reference");
  const boxes = [...document.querySelectorAll("#legend input")];
  const shown = (which) => boxes[which].checked;
  const rowsAt = new Map();
  rows.forEach((row, i) => {
    const index = Number(row.cells[0].textContent);
    if (!rowsAt.has(index)) rowsAt.set(index, []);
    rowsAt.get(index).push(i);
  });
  const indices = [...rowsAt.keys()].sort((a, b) => a - b);
  let current = null;
  let visible = figures[0];

  const text = (tag, content, className) => {
    const element = document.createElement(tag);
    element.textContent = content;
    if (className) element.className = className;
    return element;
  };

  const read = () => {
    for (const figure of figures) figure.querySelector(".guide").setAttribute("visibility", "hidden");
    if (current === null) {
      readout.replaceChildren(text("p", "Point at the plot, tap it, or use the arrow keys in it, to read a layer.", "muted"));
      return;
    }
    const plot = visible.querySelector("svg.plot");
    const { first, last, left, right } = plot.dataset;
    const share = last === first ? 0.5 : (indices[current] - first) / (last - first);
    const guide = plot.querySelector(".guide");
    guide.setAttribute("visibility", "visible");
    guide.setAttribute("transform", `translate(${Number(left) + share * (right - left)} 0)`);
    const parts = [];
    for (const i of rowsAt.get(indices[current])) {
      const [index, layer, type, top] = [...rows[i].cells].map((one) => one.textContent);
      const line = text("p", `${index}  `);
      line.append(text("b", layer), ` (${type}), top ${top}, ${shapes[i]}`);
      const head = document.createElement("tr");
      for (const title of ["", "distance", "floor", "x floor", "of bound"]) head.append(text("th", title, title ? "n" : ""));
      const list = document.createElement("table");
      list.append(head);
      for (const report of reports) {
        const found = report.found.get(i);
        if (!found || String(report.reference) !== visible.dataset.reference || !shown(report.backend)) continue;
        const entry = document.createElement("tr");
        entry.append(text("th", data.backends[report.backend]));
        for (const value of found.numbers) entry.append(text("td", value, "n"));
        const verdict = document.createElement("td");
        cell(verdict, found.reason);
        entry.append(verdict);
        if (found.reason) entry.className = "bad";
        list.append(entry);
      }
      const box = document.createElement("div");
      box.className = "scroll";
      box.append(list);
      parts.push(line, box);
    }
    readout.replaceChildren(...parts);
  };

  const choose = () => {
    const which = picker ? picker.value : "0";
    for (const figure of figures) figure.hidden = figure.dataset.reference !== which;
    visible = figures.find((figure) => !figure.hidden);
    for (const group of document.querySelectorAll("[data-series]")) {
      group.setAttribute("visibility", shown(Number(group.dataset.series)) ? "visible" : "hidden");
    }
    read();
  };
  picker?.addEventListener("change", choose);
  for (const box of boxes) box.addEventListener("change", choose);

  for (const figure of figures) {
    const plot = figure.querySelector("svg.plot");
    const { first, last, left, right } = plot.dataset;
    const nearest = (event) => {
      const frame = plot.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * plot.viewBox.baseVal.width;
      const wanted = Number(first) + ((x - left) / (right - left)) * (last - first);
      let best = 0;
      indices.forEach((index, i) => { if (Math.abs(index - wanted) < Math.abs(indices[best] - wanted)) best = i; });
      if (best !== current) {
        current = best;
        read();
      }
    };
    plot.addEventListener("pointermove", nearest);
    plot.addEventListener("pointerdown", nearest);
    plot.setAttribute("tabindex", "0");
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      current = current === null ? 0 : Math.min(indices.length - 1, Math.max(0, current + step));
      read();
    });
  }
  choose();
})();
